#include "backend/cuda/cudnn_attention.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "core/fail.h"

namespace wick::cuda {
namespace {

using Extents = Graph::Extents;
using Tensor = Graph::Tensor;

constexpr std::size_t kWorkspaceAlignment = 256;

std::int64_t round_up(std::int64_t n, std::int64_t to) { return (n + to - 1) / to * to; }
std::size_t round_up(std::size_t n, std::size_t to) { return (n + to - 1) / to * to; }

}  // namespace

const char* attention_refusal(const AttentionShape& s, bool backward, int capability, std::size_t version) {
  if (capability < 80) return "cuDNN's fused attention needs compute capability 8.0";
  const int generation = capability / 10;
  if (s.packed && generation != 9) return "packed sequences need compute capability 9";
  if (backward && generation > 9) return "no deterministic gradients of this compute capability";
  if (s.dtype != DType::bf16 && s.dtype != DType::f16) return "cuDNN's fused attention is for bf16 and f16";
  if (s.head_dim != 64 && s.head_dim != 96 && s.head_dim != 128) return "a head dimension other than 64, 96 and 128";
  if (s.sequences < 1 || s.heads < 1 || s.kv_heads < 1 || s.heads % s.kv_heads != 0) return "an empty batch";
  if (s.longest < 2) return "sequences of one token";
  if (s.window < 0 || (s.window > 0 && !s.causal)) return "a window without a causal mask";
  if (s.rows < s.longest) return "fewer rows than the longest sequence";
  // A dense length that is no multiple of the tile is read past its end (cuDNN up to 9.15).
  if (backward && !s.packed && s.longest % 128 != 0) return "dense sequences of no multiple of 128";
  const HeadStrides* all[] = {&s.q, &s.k, &s.v, &s.y, &s.dy, &s.dq, &s.dk, &s.dv};
  for (std::size_t i = 0; i < (backward ? std::size(all) : 4); ++i) {
    if (all[i]->row <= 0 || all[i]->head <= 0 || all[i]->row % 8 != 0 || all[i]->head % 8 != 0) {
      return "strides that are no multiples of 16 bytes";
    }
  }
  // cuDNN 9.14 leaves these gradients unwritten, 9.19 does not; those between are not known.
  const bool differ = s.k.row != s.dk.row || s.v.row != s.dv.row;
  if (backward && s.packed && s.heads != s.kv_heads && differ && version < 91900) {
    return "packed, grouped heads whose k or v has another row stride than dk or dv need cuDNN 9.19";
  }
  return nullptr;
}

PackedIndex::PackedIndex(const AttentionShape& s) : row_elements(round_up(s.sequences + 1, 2)) {
  const std::int64_t wanted[kMaxRows] = {1, s.q.row, s.k.row, s.v.row, s.y.row, s.dy.row, s.dq.row, s.dk.row, s.dv.row};
  for (const std::int64_t multiplier : wanted) {
    if (row_of(multiplier) == rows) multipliers[rows++] = multiplier;
  }
  lengths_at = rows * static_cast<std::size_t>(row_elements) * sizeof(std::int64_t);
  bytes = lengths_at + static_cast<std::size_t>(round_up(s.sequences, 4)) * sizeof(std::int32_t);
}

std::size_t PackedIndex::row_of(std::int64_t multiplier) const {
  const auto end = multipliers.begin() + static_cast<std::ptrdiff_t>(rows);
  return static_cast<std::size_t>(std::find(multipliers.begin(), end, multiplier) - multipliers.begin());
}

/// The operations of attention as cuDNN's engines know them: the order and the choice of operations are a pattern that
/// they match, so not every graph that computes the same has a plan.
struct AttentionGraph {
  const AttentionShape& s;
  AttentionPlan& plan;
  Graph graph = {};
  PackedIndex index;
  Tensor query_lengths = {};  // two tensors for the pattern, at one address
  Tensor key_lengths = {};
  std::size_t scratch_bytes = 0;

  const std::int64_t b = s.sequences, h = s.heads, hk = s.kv_heads, d = s.head_dim, sq = s.longest, sk = s.longest;
  const cudnnDataType_t type = s.dtype == DType::bf16 ? CUDNN_DATA_BFLOAT16 : CUDNN_DATA_HALF;
  const Extents scores{b, h, sq, sk};
  const Extents per_query{b, h, sq, 1};

  AttentionGraph(const AttentionShape& shape, AttentionPlan& into) : s(shape), plan(into), index(shape) {
    if (!s.packed) return;
    query_lengths = graph.tensor({b, 1, 1, 1}, {1, 1, 1, 1}, CUDNN_DATA_INT32);
    key_lengths = graph.tensor({b, 1, 1, 1}, {1, 1, 1, 1}, CUDNN_DATA_INT32);
    plan.lengths_uids_ = {query_lengths.uid, key_lengths.uid};
    plan.lengths_at_ = index.lengths_at;
  }

  // Where the sequences of a packed tensor start whose rows are `row` elements apart.
  Tensor ragged(std::int64_t row) {
    if (!s.packed) return {};
    const std::size_t offset = index.row_of(row) * static_cast<std::size_t>(index.row_elements) * sizeof(std::int64_t);
    for (const AttentionPlan::Inside& known : plan.index_) {
      if (known.offset == offset) return {.uid = known.uid};
    }
    const Tensor made = graph.tensor({b + 1, 1, 1, 1}, {1, 1, 1, 1}, CUDNN_DATA_INT64);
    plan.index_.push_back({.uid = made.uid, .offset = offset});
    return made;
  }

  // [b, heads, length, d] of the caller's.
  Tensor operand(AttentionPlan::Operand which, std::int64_t heads, std::int64_t length, const HeadStrides& at,
                 bool transposed = false) {
    const Tensor made = transposed ? graph.tensor({b, heads, d, length}, {length * at.row, at.head, 1, at.row}, type,
                                                  Graph::Storage::memory, ragged(at.row))
                                   : graph.tensor({b, heads, length, d}, {length * at.row, at.head, at.row, 1}, type,
                                                  Graph::Storage::memory, ragged(at.row));
    plan.uids_[which] = made.uid;
    return made;
  }

  // f32 [heads, rows].
  Tensor query_values() {
    return graph.tensor(per_query, {s.packed ? h * s.rows : sq, s.rows, 1, 1}, CUDNN_DATA_FLOAT, Graph::Storage::memory,
                        ragged(1));
  }

  // In memory between two kernels of the plan.
  void keep(const Tensor& tensor, std::int64_t bytes) {
    plan.scratch_.push_back({.uid = tensor.uid, .offset = scratch_bytes});
    scratch_bytes += round_up(static_cast<std::size_t>(bytes), kWorkspaceAlignment);
  }

  Tensor apply(cudnnPointwiseMode_t mode, const Extents& dims, const Tensor& x, const Tensor& y = {},
               const Tensor& choose = {}) {
    const Tensor result = graph.computed(dims, CUDNN_DATA_FLOAT);
    graph.pointwise(mode, CUDNN_DATA_FLOAT, result, x, y, choose);
    return result;
  }
  Tensor positions(const Tensor& like, std::int64_t axis, cudnnDataType_t compute) {
    const Tensor result = graph.computed(scores, CUDNN_DATA_INT32);
    graph.pointwise(CUDNN_POINTWISE_GEN_INDEX, compute, result, like, {}, {}, axis);
    return result;
  }
  Tensor predicate(cudnnPointwiseMode_t mode, const Tensor& x, const Tensor& y) {
    const Tensor result = graph.computed(scores, CUDNN_DATA_BOOLEAN);
    graph.pointwise(mode, CUDNN_DATA_BOOLEAN, result, x, y);
    return result;
  }
  Tensor where(const Tensor& keep_if, const Tensor& score) {
    const Tensor nothing = graph.constant(-std::numeric_limits<float>::infinity());
    return apply(CUDNN_POINTWISE_BINARY_SELECT, scores, score, nothing, keep_if);
  }

  // -inf where a query does not see a key.
  Tensor masked(Tensor score) {
    if (s.packed) {
      const Tensor row = positions(score, 2, CUDNN_DATA_INT32);
      const Tensor column = positions(score, 3, CUDNN_DATA_INT32);
      const Tensor row_there = predicate(CUDNN_POINTWISE_CMP_LT, row, query_lengths);
      const Tensor column_there = predicate(CUDNN_POINTWISE_CMP_LT, column, key_lengths);
      score = where(predicate(CUDNN_POINTWISE_LOGICAL_AND, row_there, column_there), score);
    }
    if (!s.causal) return score;

    const Tensor row = positions(score, 2, CUDNN_DATA_FLOAT);
    score = where(predicate(CUDNN_POINTWISE_CMP_GE, row, positions(score, 3, CUDNN_DATA_FLOAT)), score);
    if (s.window > 0) {
      const Tensor at = positions(score, 2, CUDNN_DATA_FLOAT);
      const Tensor column = positions(score, 3, CUDNN_DATA_FLOAT);
      const Tensor reach = apply(CUDNN_POINTWISE_ADD, scores, column, graph.constant(static_cast<float>(s.window)));
      score = where(predicate(CUDNN_POINTWISE_CMP_GT, reach, at), score);
    }
    return score;
  }

  Tensor times(const Extents& dims, cudnnDataType_t to, const Tensor& a, const Tensor& b_,
               const Graph::Lengths& lengths) {
    const Tensor result = graph.computed(dims, to);
    graph.matmul(result, a, b_, lengths);
    return result;
  }

  void forward() {
    const Tensor q = operand(AttentionPlan::kQ, h, sq, s.q);
    const Tensor k = operand(AttentionPlan::kK, hk, sk, s.k, true);
    const Tensor v = operand(AttentionPlan::kV, hk, sk, s.v);
    const Tensor y = operand(AttentionPlan::kY, h, sq, s.y);

    Tensor score = times(scores, CUDNN_DATA_FLOAT, q, k, {.m = query_lengths, .n = key_lengths});
    score = masked(apply(CUDNN_POINTWISE_MUL, scores, score, graph.constant(s.scale)));

    const Tensor highest = graph.computed(per_query, CUDNN_DATA_FLOAT);
    graph.reduce(CUDNN_REDUCE_TENSOR_MAX, highest, score);
    const Tensor e = apply(CUDNN_POINTWISE_EXP, scores, apply(CUDNN_POINTWISE_SUB, scores, score, highest));
    const Tensor sum = graph.computed(per_query, CUDNN_DATA_FLOAT);
    graph.reduce(CUDNN_REDUCE_TENSOR_ADD, sum, e);
    const Tensor log_sum_exp = query_values();
    plan.uids_[AttentionPlan::kLse] = log_sum_exp.uid;
    graph.pointwise(CUDNN_POINTWISE_ADD, CUDNN_DATA_FLOAT, log_sum_exp, highest,
                    apply(CUDNN_POINTWISE_LOG, per_query, sum));
    const Tensor weights = graph.computed(scores, type);
    graph.pointwise(CUDNN_POINTWISE_DIV, CUDNN_DATA_FLOAT, weights, e, sum);
    graph.matmul(y, weights, v, {.m = query_lengths, .k = key_lengths});
  }

  // grad [b, hk, sk, d] = sum over the heads of a group of transposed [b, h, sk, sq] times right.
  void into_key_heads(const Tensor& grad, const Tensor& transposed, const Tensor& right, const HeadStrides& at) {
    const Graph::Lengths lengths{.m = key_lengths, .k = query_lengths};
    if (h == hk) {
      graph.matmul(grad, transposed, right, lengths);
      return;
    }
    const Extents dims{b, h, sk, d};
    Tensor full;
    if (s.packed) {  // cuDNN multiplies the key heads' offsets by the group itself
      const std::int64_t group = h / hk;
      full = graph.tensor(dims, {sk * at.row * group, at.head, at.row * group, 1}, type, Graph::Storage::memory,
                          ragged(at.row));
      keep(full, 4 * ((s.rows - 1) * at.row * group + (h - 1) * at.head + d));
    } else {
      full = graph.computed(dims, type);
    }
    graph.matmul(full, transposed, right, lengths);
    graph.reduce(CUDNN_REDUCE_TENSOR_ADD, grad, full);
  }

  void backward() {
    const Tensor q = operand(AttentionPlan::kQ, h, sq, s.q);
    const Tensor k = operand(AttentionPlan::kK, hk, sk, s.k, true);
    const Tensor v = operand(AttentionPlan::kV, hk, sk, s.v, true);
    const Tensor y = operand(AttentionPlan::kY, h, sq, s.y);
    const Tensor dy = operand(AttentionPlan::kDy, h, sq, s.dy);
    const Tensor dq = operand(AttentionPlan::kDq, h, sq, s.dq);
    const Tensor dk = operand(AttentionPlan::kDk, hk, sk, s.dk);
    const Tensor dv = operand(AttentionPlan::kDv, hk, sk, s.dv);
    const Tensor lse = query_values();
    plan.uids_[AttentionPlan::kLse] = lse.uid;
    const Tensor scale = graph.constant(s.scale);

    // delta = sum(dy * y) of each query. The product with 1 is where the pattern has dropout.
    const Tensor product = apply(CUDNN_POINTWISE_MUL, {b, h, sq, d}, dy, y);
    const Tensor sums = graph.computed(per_query, CUDNN_DATA_FLOAT);
    graph.reduce(CUDNN_REDUCE_TENSOR_ADD, sums, product);
    const Tensor delta = query_values();
    graph.pointwise(CUDNN_POINTWISE_MUL, CUDNN_DATA_FLOAT, delta, sums, graph.constant(1.0F));
    keep(delta, 4 * h * s.rows);

    // p = exp(scale * q kᵀ - lse), dv = pᵀ dy
    Tensor score = times(scores, CUDNN_DATA_FLOAT, q, k, {.m = query_lengths, .n = key_lengths});
    score = apply(CUDNN_POINTWISE_MUL, scores, score, scale);
    score = masked(apply(CUDNN_POINTWISE_SUB, scores, score, lse));
    const Tensor p = apply(CUDNN_POINTWISE_EXP, scores, score);
    const Extents flipped{b, h, sk, sq};
    const Extents flipped_strides{h * sq * sk, sq * sk, 1, sk};
    const Tensor pt = graph.tensor(flipped, flipped_strides, type, Graph::Storage::computed);
    graph.reshape(pt, p);
    into_key_heads(dv, pt, dy, s.dv);

    // ds = scale * p * (dy vᵀ - delta), dk = dsᵀ q
    const Tensor dp = times(scores, CUDNN_DATA_FLOAT, dy, v, {.m = query_lengths, .n = key_lengths});
    Tensor ds = apply(CUDNN_POINTWISE_SUB, scores, dp, delta);
    ds = apply(CUDNN_POINTWISE_MUL, scores, ds, p);
    ds = apply(CUDNN_POINTWISE_MUL, scores, ds, scale);
    const Tensor dst = graph.tensor(flipped, flipped_strides, type, Graph::Storage::computed);
    graph.reshape(dst, ds);
    into_key_heads(dk, dst, q, s.dk);

    // dq = ds k, by way of a whole ds in the workspace, which fixes the order of the sums over tiles of keys.
    const Tensor keys = graph.tensor({b, hk, sk, d}, {sk * s.k.row, s.k.head, s.k.row, 1}, type,
                                     Graph::Storage::computed, ragged(s.k.row));
    graph.reshape(keys, k);
    graph.matmul(dq, ds, keys, {.m = query_lengths, .k = key_lengths});
  }

  void build(const CudnnDevice& device, bool deterministic) {
    plan.plan_.emplace(graph.build(device, deterministic));
    const std::size_t own = round_up(static_cast<std::size_t>(plan.plan_->workspace_bytes()), kWorkspaceAlignment);
    for (AttentionPlan::Inside& inside : plan.scratch_) inside.offset += own;
    plan.workspace_bytes_ = own + scratch_bytes;
  }
};

const AttentionPlan& CudnnAttention::plan(Pass pass, const AttentionShape& shape) {
  const std::scoped_lock lock(mutex_);
  const Key key{pass, shape};
  if (const auto known = plans_.find(key); known != plans_.end()) return *known->second;
  auto made = std::make_unique<AttentionPlan>();
  AttentionPlan& plan = *made;
  if (const char* reason =
          attention_refusal(shape, pass == Pass::backward, device_.compute_capability(), cudnn().version)) {
    plan.reason_ = reason;
  } else {
    try {
      AttentionGraph graph(shape, plan);
      if (pass == Pass::backward) {
        graph.backward();
      } else {
        graph.forward();
      }
      graph.build(device_, pass == Pass::backward);
    } catch (const CudnnRefusal& refused) {
      plan.reason_ = refused.what();
    }
  }
  return *plans_.emplace(key, std::move(made)).first->second;
}

const AttentionPlan& CudnnAttention::forward_plan(const AttentionShape& shape) {
  AttentionShape key = shape;  // what the forward pass does not know makes no second plan
  key.dy = key.dq = key.dk = key.dv = {};
  return plan(Pass::forward, key);
}

const AttentionPlan& CudnnAttention::backward_plan(const AttentionShape& shape) { return plan(Pass::backward, shape); }

void CudnnAttention::run(const AttentionPlan& plan, cudaStream_t stream, std::span<void* const> operands,
                         const void* index, void* workspace) {
  if (plan.declined() != nullptr) fail(ErrorCode::device, "[attention] this plan cannot run: {}", plan.declined());
  const auto place = [](const void* base, std::size_t offset) {
    return const_cast<char*>(static_cast<const char*>(base)) + offset;  // cuDNN takes what it only reads as void* too
  };
  std::vector<GraphPlan::Binding> bindings;
  for (std::size_t i = 0; i < operands.size(); ++i) {
    if (plan.uids_[i] == 0) continue;
    if (operands[i] == nullptr || reinterpret_cast<std::uintptr_t>(operands[i]) % 16 != 0) {
      fail(ErrorCode::invalid_argument, "[attention] operand {} is at {}, expected a multiple of 16", i, operands[i]);
    }
    bindings.push_back({.uid = plan.uids_[i], .data = operands[i]});
  }
  if (plan.lengths_uids_[0] != 0) {
    if (index == nullptr || reinterpret_cast<std::uintptr_t>(index) % 16 != 0) {
      fail(ErrorCode::invalid_argument, "[attention] the packed index is at {}, expected a multiple of 16", index);
    }
    for (const std::int64_t uid : plan.lengths_uids_) bindings.push_back({uid, place(index, plan.lengths_at_)});
    for (const AttentionPlan::Inside& row : plan.index_) bindings.push_back({row.uid, place(index, row.offset)});
  }
  for (const AttentionPlan::Inside& inside : plan.scratch_) {
    bindings.push_back({inside.uid, place(workspace, inside.offset)});
  }
  try {
    plan.plan_->run(device_, stream, bindings, workspace);
  } catch (const CudnnRefusal& refused) {
    fail(ErrorCode::device, "[attention] {}", refused.what());
  }
}

void CudnnAttention::forward(const AttentionPlan& plan, cudaStream_t stream, const AttentionForwardOperands& at,
                             void* workspace) {
  void* const operands[] = {const_cast<void*>(at.q), const_cast<void*>(at.k), const_cast<void*>(at.v), at.y, at.lse};
  run(plan, stream, operands, at.index, workspace);
}

void CudnnAttention::backward(const AttentionPlan& plan, cudaStream_t stream, const AttentionBackwardOperands& at,
                              void* workspace) {
  void* const operands[] = {const_cast<void*>(at.q),
                            const_cast<void*>(at.k),
                            const_cast<void*>(at.v),
                            const_cast<void*>(at.y),
                            const_cast<float*>(at.lse),
                            const_cast<void*>(at.dy),
                            at.dq,
                            at.dk,
                            at.dv};
  run(plan, stream, operands, at.index, workspace);
}

}  // namespace wick::cuda
