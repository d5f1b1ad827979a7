// Attention of few queries with long caches (flash-decoding): the keys of a query are cut into splits, one block each,
// and the last block of a query to finish joins their sums in order. How many splits there may be follows from shapes,
// how long they are from the lengths on the device, so a captured launch stays right while the cache grows. A block
// serves all heads of a group (up to eight): keys and values are read once.

#include "ops/attention/attention_cuda.cuh"

namespace wick::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / 32;
constexpr int kEach = 8;      // elements of a row that a lane holds
constexpr int kUnroll = 4;    // keys that it has in flight
constexpr int kMinKeys = 64;  // of a split
constexpr int kMaxSplits = 64;
constexpr int kMaxUnits = 4096;

// Of each unit (a query's heads that share a block) with several splits: how many have left their sums. The last one
// sets it back to 0.
__device__ unsigned finished[kMaxUnits];

template <class T>
struct DecodeArguments {
  AttentionProblem problem;
  Heads<const T> q, k, v;
  Heads<T> y;
  float* lse;  // null: not wanted
  std::int64_t lse_row;
  int lanes;     // that share a key: 8, 16 or 32
  int chunks;    // units of a group
  int splits;    // at most
  float* parts;  // [units, splits, part_floats]
};

// A part is the softmax over some keys for the heads of a block: per head `width` sums of weighted values, not divided by
// anything, then the heads' highest scores (in powers of two), then their sums of weights.
template <int kHeads>
__host__ __device__ constexpr int part_floats(int width) {
  return kHeads * (width + 2);
}

// A lane's elements of a row as they lie in memory; zeros beyond `count`.
template <class T>
struct Elements {
  static constexpr int kSize = Pack<T>::kSize;
  Pack<T> packs[kEach / kSize];

  __device__ Elements(const T* from, int count, bool vectors) {
    if (vectors && count >= kEach) {
#pragma unroll
      for (int i = 0; i < kEach / kSize; ++i) packs[i] = load_pack(from + i * kSize);
    } else {
#pragma unroll
      for (int e = 0; e < kEach; ++e) packs[e / kSize][e % kSize] = e < count ? from[e] : from_float<T>(0.0F);
    }
  }
  __device__ float operator[](int e) const { return to_float(packs[e / kSize][e % kSize]); }
};

// Joins `count` parts and calls f(head, element, sum, highest, total) for each element, the whole block together.
// kFresh: other blocks have just written them.
template <int kHeads, bool kFresh, class F>
__device__ inline void join(const float* parts, int count, int width, const F& f) {
  __shared__ float factors[kMaxSplits][kHeads];
  __shared__ float highest[kHeads];
  __shared__ float totals[kHeads];
  const auto load = [](const float* from) {
    if constexpr (kFresh) return __ldcg(from);
    return *from;
  };
  const int stride = part_floats<kHeads>(width);
  const auto thread = static_cast<int>(threadIdx.x);
  const int lane = thread % 32;
  for (int head = thread / 32; head < kHeads; head += kWarps) {
    const float* tops = parts + kHeads * width + head;
    float top = -INFINITY;
    for (int i = lane; i < count; i += 32) top = fmaxf(top, load(tops + i * stride));
    top = warp_max(top);
    const float base = top == -INFINITY ? 0.0F : top;
    float total = 0.0F;
    for (int i = lane; i < count; i += 32) {
      factors[i][head] = exp2f(load(tops + i * stride) - base);
      total += factors[i][head] * load(tops + i * stride + kHeads);
    }
    total = warp_sum(total);
    if (lane == 0) {
      highest[head] = top;
      totals[head] = total;
    }
  }
  __syncthreads();
  for (int i = thread; i < kHeads * width; i += kThreads) {
    const int head = i / width;
    float sum = 0.0F;
#pragma unroll 8
    for (int part = 0; part < count; ++part) sum = fmaf(factors[part][head], load(parts + part * stride + i), sum);
    f(head, i % width, sum, highest[head], totals[head]);
  }
}

template <class T, int kHeads>
__global__ void __launch_bounds__(kThreads) decode_kernel(const DecodeArguments<T> in) {
  extern __shared__ __align__(16) float warp_parts[];  // one of each warp
  __shared__ bool is_last;
  wait_for_previous();
  allow_next();
  const AttentionProblem& p = in.problem;
  const int split = static_cast<int>(blockIdx.x) % in.splits;
  const int unit = static_cast<int>(blockIdx.x) / in.splits;
  const int chunk = unit % in.chunks;
  const int kv_head = unit / in.chunks % p.kv_heads;
  const int token = unit / in.chunks / p.kv_heads;
  const int first_head = kv_head * p.group() + chunk * kHeads;
  const int head_count = ::min(kHeads, p.group() - chunk * kHeads);

  const int sequence = last_begun(
      p.sequences, [&](int i) { return boundary(p.query_offsets, p.sequences, p.tokens, i) <= token; });
  const Sequence s = sequence_of(p, sequence, Side::queries);
  const int row = token - s.first_query;
  const Meeting sees(p, s, Side::queries, row, row >= 0 && row < s.queries ? 1 : 0);
  const int keys_at_once = kThreads / in.lanes * kUnroll;
  const int wanted = ::max(kMinKeys, (sees.size() + in.splits - 1) / in.splits);
  const int keys_of_split = (wanted + keys_at_once - 1) / keys_at_once * keys_at_once;
  const int splits = ::max(1, (sees.size() + keys_of_split - 1) / keys_of_split);
  if (split >= splits) return;
  const int begin = sees.begin() + split * keys_of_split;
  const int end = ::min(begin + keys_of_split, sees.begin() + sees.size());

  const auto thread = static_cast<int>(threadIdx.x);
  const int part = thread % in.lanes;
  const int width = in.lanes * kEach;
  const int elements = p.head_dim - part * kEach;  // that are this lane's
  const float scale_log2 = p.scale * std::numbers::log2e_v<float>;
  float q[kHeads][kEach];
  float sums[kHeads][kEach];
  float highest[kHeads];
  float total[kHeads];
#pragma unroll
  for (int g = 0; g < kHeads; ++g) {
    const bool there = g < head_count && elements > 0;
    const Elements<T> of_head(in.q.at(token, first_head) + (there ? g * in.q.head + part * kEach : 0),
                              there ? elements : 0, p.vectors);
#pragma unroll
    for (int e = 0; e < kEach; ++e) {
      q[g][e] = of_head[e] * scale_log2;
      sums[g][e] = 0.0F;
    }
    highest[g] = -INFINITY;
    total[g] = 0.0F;
  }

  for (int at = begin; at < end; at += keys_at_once) {
    const auto row_of = [&](int u) { return at + u * (kThreads / in.lanes) + thread / in.lanes; };
    const auto load = [&](const Heads<const T>& from, int u) {
      const bool there = row_of(u) < end && elements > 0;
      return Elements<T>(from.at(s.first_key + (there ? row_of(u) : begin), kv_head) + (there ? part * kEach : 0),
                         there ? elements : 0, p.vectors);
    };
    const Elements<T> keys[kUnroll] = {load(in.k, 0), load(in.k, 1), load(in.k, 2), load(in.k, 3)};
    const Elements<T> values[kUnroll] = {load(in.v, 0), load(in.v, 1), load(in.v, 2), load(in.v, 3)};
    float scores[kUnroll][kHeads];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
#pragma unroll
      for (int g = 0; g < kHeads; ++g) {
        scores[u][g] = 0.0F;
#pragma unroll
        for (int e = 0; e < kEach; ++e) scores[u][g] = fmaf(q[g][e], keys[u][e], scores[u][g]);
      }
    }
#pragma unroll 1
    for (int offset = in.lanes / 2; offset > 0; offset /= 2) {
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
#pragma unroll
        for (int g = 0; g < kHeads; ++g) scores[u][g] += __shfl_xor_sync(0xffffffffU, scores[u][g], offset);
      }
    }
    // One maximum for all keys of a warp, so that its lanes' sums need no factors in the end.
#pragma unroll
    for (int g = 0; g < kHeads; ++g) {
      float top = highest[g];
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        if (row_of(u) >= end) scores[u][g] = -INFINITY;
        top = fmaxf(top, scores[u][g]);
      }
      for (int offset = in.lanes; offset < 32; offset *= 2) {
        top = fmaxf(top, __shfl_xor_sync(0xffffffffU, top, offset));
      }
      const float base = top == -INFINITY ? 0.0F : top;
      const float keep = exp2f(highest[g] - base);
      highest[g] = top;
      total[g] *= keep;
#pragma unroll
      for (int e = 0; e < kEach; ++e) sums[g][e] *= keep;
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        const float weight = exp2f(scores[u][g] - base);
        total[g] += weight;
#pragma unroll
        for (int e = 0; e < kEach; ++e) sums[g][e] = fmaf(weight, values[u][e], sums[g][e]);
      }
    }
  }

  float* const of_warp = warp_parts + thread / 32 * part_floats<kHeads>(width);
#pragma unroll
  for (int g = 0; g < kHeads; ++g) {
    for (int offset = in.lanes; offset < 32; offset *= 2) {
      total[g] += __shfl_xor_sync(0xffffffffU, total[g], offset);
#pragma unroll
      for (int e = 0; e < kEach; ++e) sums[g][e] += __shfl_xor_sync(0xffffffffU, sums[g][e], offset);
    }
    if (thread % 32 < in.lanes) {
#pragma unroll
      for (int e = 0; e < kEach; ++e) of_warp[g * width + part * kEach + e] = sums[g][e];
    }
    if (thread % 32 == 0) {
      of_warp[kHeads * width + g] = highest[g];
      of_warp[kHeads * (width + 1) + g] = total[g];
    }
  }
  __syncthreads();
  const auto finish = [&](int head, int i, float sum, float top, float weights) {
    if (head >= head_count || i >= p.head_dim) return;
    in.y.at(token, first_head + head)[i] = from_float<T>(weights == 0 ? 0.0F : sum / weights);
    if (i == 0 && in.lse != nullptr) {
      in.lse[(first_head + head) * in.lse_row + token] = log_sum_exp(top, weights, std::numbers::ln2_v<float>);
    }
  };
  if (splits == 1) {
    join<kHeads, false>(warp_parts, kWarps, width, finish);
    return;
  }
  float* const of_unit = in.parts + static_cast<std::int64_t>(unit) * in.splits * part_floats<kHeads>(width);
  float* const of_block = of_unit + split * part_floats<kHeads>(width);
  join<kHeads, false>(warp_parts, kWarps, width, [&](int head, int i, float sum, float top, float weights) {
    of_block[head * width + i] = sum;
    if (i == 0) {
      of_block[kHeads * width + head] = top;
      of_block[kHeads * (width + 1) + head] = weights;
    }
  });
  __threadfence();
  __syncthreads();
  if (thread == 0) {
    const auto others = static_cast<unsigned>(splits - 1);
    is_last = atomicInc(&finished[unit], others) == others;
  }
  __syncthreads();
  if (!is_last) return;
  __threadfence();
  join<kHeads, true>(of_unit, splits, width, finish);
}

template <class T, int kHeads>
Declined decode(const DecodeArguments<T>& arguments, Device device) {
  DecodeArguments<T> in = arguments;
  const AttentionProblem& p = in.problem;
  const int floats = part_floats<kHeads>(in.lanes * kEach);
  in.chunks = (p.group() + kHeads - 1) / kHeads;
  const std::int64_t units = static_cast<std::int64_t>(p.tokens) * p.kv_heads * in.chunks;
  // Two blocks for each multiprocessor, and none that a full cache has no keys for.
  const std::int64_t wanted = (2 * info().multiprocessors + units - 1) / units;
  const std::int64_t useful = ::max((p.key_tokens + kMinKeys - 1) / kMinKeys, 1);
  in.splits = units > kMaxUnits ? 1 : static_cast<int>(::min(::min(wanted, useful), std::int64_t{kMaxSplits}));
  if (units * in.splits > INT_MAX) return "more blocks than a grid has";
  Tensor parts;
  if (in.splits > 1) {
    parts = Tensor::empty(Shape{units, in.splits, floats}, DType::f32, device);
    in.parts = pointer<float>(parts);
  }
  // Of a full cache; how much of it is read only the device knows.
  const double rows = static_cast<double>(p.heads) * p.tokens + static_cast<double>(p.kv_heads) * p.key_tokens;
  const Work work{"attention decode", rows * 2 * p.head_dim * sizeof(T), attention_flops(p, 2)};
  launch(work, decode_kernel<T, kHeads>,
         {.grid = dim3(static_cast<unsigned>(units * in.splits)),
          .block = dim3(kThreads),
          .shared = sizeof(float) * kWarps * static_cast<std::size_t>(floats),
          .overlap = true},
         in);
  return nullptr;
}

}  // namespace

Declined attention_forward_decode(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionLayout& layout,
                                  const Tensor& y, const Tensor& lse) {
  return visit_narrow(q.dtype(), [&]<class T>(T) {
    const DecodeArguments<T> in{.problem = attention_problem(q, k, layout, {&q, &k, &v}),
                                .q = by_heads<const T>(q),
                                .k = by_heads<const T>(k),
                                .v = by_heads<const T>(v),
                                .y = by_heads<T>(y),
                                .lse = pointer<float>(lse),
                                .lse_row = lse.defined() ? lse.stride(0) : 0,
                                .lanes = q.size(2) <= 64 ? 8 : q.size(2) <= 128 ? 16 : 32,
                                .chunks = 1,
                                .splits = 1,
                                .parts = nullptr};
    switch (in.problem.group()) {
      case 1:
        return decode<T, 1>(in, q.device());
      case 2:
        return decode<T, 2>(in, q.device());
      case 3:
      case 4:
        return decode<T, 4>(in, q.device());
      default:
        return decode<T, 8>(in, q.device());
    }
  });
}

}  // namespace wick::cuda
