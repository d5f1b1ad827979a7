// Which of the CUDA attention kernels runs, and what they have in common on the host.

#include <algorithm>
#include <optional>

#include "core/batch_invariance.h"
#include "ops/attention/attention_cuda.cuh"

namespace wick::cuda {

bool vectors_in(std::initializer_list<const Tensor*> tensors) {
  for (const Tensor* t : tensors) {
    if (!t->defined()) continue;
    if (!packs(*t, t->size(0) > 1 ? t->stride(0) : 0) || !packs(*t, t->size(1) > 1 ? t->stride(1) : 0)) return false;
  }
  return true;
}

AttentionProblem attention_problem(const Tensor& q, const Tensor& k, const AttentionLayout& layout,
                                   std::initializer_list<const Tensor*> rows) {
  // A window as long as the keys hides none.
  const std::int64_t window = layout.causal && layout.window < k.size(0) ? layout.window : 0;
  return {.query_offsets = pointer<std::int32_t>(layout.query_offsets),
          .key_offsets = pointer<std::int32_t>(layout.key_offsets),
          .sequences = static_cast<int>(layout.query_offsets.numel() - 1),
          .tokens = static_cast<int>(q.size(0)),
          .key_tokens = static_cast<int>(k.size(0)),
          .heads = static_cast<int>(q.size(1)),
          .kv_heads = static_cast<int>(k.size(1)),
          .head_dim = static_cast<int>(q.size(2)),
          .window = static_cast<int>(window),
          .scale = layout.scale,
          .causal = layout.causal,
          .vectors = vectors_in(rows),
          .bias = pointer<float>(layout.bias),
          .reach = layout.bias.defined() ? static_cast<int>(layout.bias.size(1) / 2) : 0,
          .bias_factor = 1.0F / layout.scale};
}

double attention_flops(const AttentionProblem& p, int products) {
  const double sequences = p.sequences;
  const double queries = p.tokens / sequences;
  const double keys = p.key_tokens / sequences;
  double seen = keys;  // by a query
  if (p.causal && queries < keys) seen -= (queries - 1) / 2;
  if (p.causal && queries >= keys) seen = (keys + 1) / 2;
  if (p.window > 0 && p.window < seen) seen = p.window;
  return 2.0 * products * p.tokens * p.heads * seen * p.head_dim;
}

namespace {

constexpr int kDeltaLanes = 8;  // lanes of a row
constexpr int kDeltaThreads = 256;
constexpr int kDeltaRows = kDeltaThreads / kDeltaLanes;

// Queries in a row of attention_terms().
std::int64_t terms_row(std::int64_t tokens) { return (tokens + 1) / 2 * 2; }

// Where the sums go: to `delta` or, with lse, to `terms` as attention_terms() says.
struct DeltaResult {
  float* delta = nullptr;
  float2* terms = nullptr;
  std::int64_t terms_row = 0;
  const float* lse = nullptr;
  std::int64_t lse_row = 0;
};

template <class T>
struct DeltaArguments {
  Heads<const T> dy, y;
  DeltaResult result;
  int tokens;
  int head_dim;
  bool vectors;
};

// A block takes kDeltaRows tokens of one head.
template <class T>
__global__ void __launch_bounds__(kDeltaThreads) delta_kernel(const DeltaArguments<T> in) {
  const int token = static_cast<int>(blockIdx.x) * kDeltaRows + static_cast<int>(threadIdx.x) / kDeltaLanes;
  const int head = static_cast<int>(blockIdx.y);
  const int lane = static_cast<int>(threadIdx.x) % kDeltaLanes;
  float sum = 0.0F;
  if (token < in.tokens) {
    const T* dy = in.dy.at(token, head);
    const T* y = in.y.at(token, head);
    constexpr int kSize = Pack<T>::kSize;
    int done = 0;
    if (in.vectors) {
      for (int i = lane * kSize; i + kSize <= in.head_dim; i += kDeltaLanes * kSize) {
        const Pack<T> a = load_pack(dy + i);
        const Pack<T> b = load_pack(y + i);
#pragma unroll
        for (int e = 0; e < kSize; ++e) sum = fmaf(to_float(a[e]), to_float(b[e]), sum);
      }
      done = in.head_dim / kSize * kSize;
    }
    for (int i = done + lane; i < in.head_dim; i += kDeltaLanes) sum = fmaf(to_float(dy[i]), to_float(y[i]), sum);
  }
#pragma unroll
  for (int offset = kDeltaLanes / 2; offset > 0; offset /= 2) sum += __shfl_xor_sync(0xffffffffU, sum, offset);
  if (lane > 0 || token >= in.tokens) return;
  if (in.result.terms == nullptr) {
    in.result.delta[static_cast<std::int64_t>(head) * in.tokens + token] = sum;
    return;
  }
  const float lse = in.result.lse[head * in.result.lse_row + token];
  const float2 terms = {lse > -INFINITY ? -lse * std::numbers::log2e_v<float> : -INFINITY, sum};
  float2* const to = in.result.terms + 2 * head * in.result.terms_row;
  to[token] = terms;
  if (token > 0) to[in.result.terms_row + token - 1] = terms;
}

constexpr int kJoinThreads = 256;

template <class T>
struct JoinArguments {
  const float* parts;
  int splits;
  std::int64_t size;  // of a part
  int kv_heads, head_dim;
  Heads<T> to[2];  // dk, dv
};

// dk (blockIdx.y = 0) or dv.
template <class T>
__global__ void __launch_bounds__(kJoinThreads) join_kernel(const JoinArguments<T> in) {
  const Heads<T>& to = in.to[blockIdx.y];
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kJoinThreads + threadIdx.x;
  if (i >= in.size || to.data == nullptr) return;
  const float* from = in.parts + static_cast<int>(blockIdx.y) * in.splits * in.size + i;
  float sum = 0.0F;
  for (int part = 0; part < in.splits; ++part) sum += from[part * in.size];
  const std::int64_t row = static_cast<std::int64_t>(in.kv_heads) * in.head_dim;
  const auto column = static_cast<int>(i % row);
  to.at(i / row, column / in.head_dim)[column % in.head_dim] = from_float<T>(sum);
}

void run_delta(const Tensor& dy, const Tensor& y, const AttentionProblem& p, const DeltaResult& result) {
  visit_narrow(dy.dtype(), [&]<class T>(T) {
    const DeltaArguments<T> in{.dy = by_heads<const T>(dy),
                               .y = by_heads<const T>(y),
                               .result = result,
                               .tokens = p.tokens,
                               .head_dim = p.head_dim,
                               .vectors = vectors_in({&dy, &y})};
    const double elements = static_cast<double>(p.heads) * p.tokens * p.head_dim;
    launch(
        {"attention delta", 2 * elements * sizeof(T), 2 * elements}, delta_kernel<T>,
        {.grid = dim3(blocks_for(p.tokens, kDeltaRows), static_cast<unsigned>(p.heads)), .block = dim3(kDeltaThreads)},
        in);
  });
}

Declined declined(const Tensor& q) {
  if (q.dtype() == DType::f64) return "f64";
  return q.size(2) > kMaxHeadDim ? "a head dimension over 256" : nullptr;
}

}  // namespace

Tensor attention_delta(const Tensor& dy, const Tensor& y, const AttentionProblem& p) {
  Tensor delta = Tensor::empty({p.heads, p.tokens}, DType::f32, dy.device());
  run_delta(dy, y, p, {.delta = pointer<float>(delta)});
  return delta;
}
Tensor attention_terms(const Tensor& dy, const Tensor& y, const Tensor& lse, const AttentionProblem& p) {
  const std::int64_t row = terms_row(p.tokens);
  Tensor terms = Tensor::empty({2 * p.heads, 2 * row}, DType::f32, dy.device());
  run_delta(dy, y, p,
            {.terms = pointer<float2>(terms), .terms_row = row, .lse = pointer<float>(lse), .lse_row = lse.stride(0)});
  return terms;
}

int attention_splits(std::int64_t key_tokens, std::int64_t kv_heads, std::int64_t group, int rows) {
  const std::int64_t blocks = (key_tokens / rows + 1) * kv_heads;
  const std::int64_t multiprocessors = info().multiprocessors;
  if (2 * blocks >= 3 * multiprocessors) return 1;
  const std::int64_t wanted = (3 * multiprocessors + blocks - 1) / blocks;
  return static_cast<int>(std::max<std::int64_t>(std::min(wanted, group), 1));
}

void attention_join(const Tensor& parts, const AttentionProblem& p, const Tensor& dk, const Tensor& dv) {
  const Tensor& any = dk.defined() ? dk : dv;
  visit_narrow(any.dtype(), [&]<class T>(T) {
    const JoinArguments<T> in{.parts = pointer<float>(parts),
                              .splits = static_cast<int>(parts.size(1)),
                              .size = static_cast<std::int64_t>(p.key_tokens) * p.kv_heads * p.head_dim,
                              .kv_heads = p.kv_heads,
                              .head_dim = p.head_dim,
                              .to = {by_heads<T>(dk), by_heads<T>(dv)}};
    const double bytes =
        static_cast<double>(parts.numel()) * sizeof(float) + 2.0 * static_cast<double>(in.size) * sizeof(T);
    launch({"attention backward join", bytes}, join_kernel<T>,
           {.grid = dim3(blocks_for(in.size, kJoinThreads), 2), .block = dim3(kJoinThreads)}, in);
  });
}

Declined attention_forward_own(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionLayout& layout,
                               const Tensor& y, const Tensor& lse) {
  if (const Declined reason = declined(q)) return reason;
  if (q.numel() == 0) return nullptr;
  const bool single = q.size(0) < layout.query_offsets.numel();  // no more than a query for each sequence
  if (single && !layout.bias.defined() && !BatchInvariance::wanted()) {
    return attention_forward_decode(q, k, v, layout, y, lse);
  }
  if (q.dtype() == DType::f32) return attention_forward_generic(q, k, v, layout, y, lse);
  if (attention_forward_short(q, k, v, layout, y, lse) == nullptr) return nullptr;
  if (attention_forward_hopper(q, k, v, layout, y, lse) == nullptr) return nullptr;
  return attention_forward_tensor_cores(q, k, v, layout, y, lse);
}

Declined attention_backward_own(const Tensor& dy, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& y,
                                const Tensor& lse, const AttentionLayout& layout, const Tensor& dq, const Tensor& dk,
                                const Tensor& dv) {
  if (const Declined reason = declined(q)) return reason;
  if (q.dtype() == DType::f32 || q.size(2) > 128) {
    return attention_backward_generic(dy, q, k, v, y, lse, layout, dq, dk, dv);
  }
  return attention_backward_tensor_cores(dy, q, k, v, y, lse, layout, dq, dk, dv);
}

Declined attention_forward_cuda(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionLayout& layout,
                                const Tensor& y, const Tensor& lse) {
  if (attention_forward_cudnn(q, k, v, layout, y, lse) == nullptr) return nullptr;
  return attention_forward_own(q, k, v, layout, y, lse);
}

Declined attention_backward_cuda(const Tensor& dy, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& y,
                                 const Tensor& lse, const AttentionLayout& layout, const Tensor& dq, const Tensor& dk,
                                 const Tensor& dv) {
  if (attention_backward_hopper(dy, q, k, v, y, lse, layout, dq, dk, dv) == nullptr) return nullptr;
  if (attention_backward_cudnn(dy, q, k, v, y, lse, layout, dq, dk, dv) == nullptr) return nullptr;
  return attention_backward_own(dy, q, k, v, y, lse, layout, dq, dk, dv);
}

std::int64_t attention_scratch_cuda(const AttentionSizes& s) {
  const std::optional<std::int64_t> parts = attention_parts_hopper(s);
  return parts ? 2 * s.heads * terms_row(s.tokens) * static_cast<std::int64_t>(sizeof(float2)) + *parts
               : attention_scratch_cudnn(s);
}

void register_attention() {
  attention_forward.on(DeviceType::cuda) = attention_forward_cuda;
  attention_backward.on(DeviceType::cuda) = attention_backward_cuda;
  attention_append_kernels.on(DeviceType::cuda) = attention_append_cuda;
  attention_scratch_by.on(DeviceType::cuda) = attention_scratch_cuda;
}

}  // namespace wick::cuda
