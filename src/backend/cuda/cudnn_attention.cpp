#include "backend/cuda/cudnn_attention.h"

#include <fmt/format.h>

#include <cstring>
#include <limits>

#include "core/fail.h"

namespace wick::cuda {
namespace {

using Extents = Graph::Extents;
using Tensor = Graph::Tensor;

constexpr std::size_t kWorkspaceAlignment = 256;

// The rows of a PackedIndex.
enum IndexRow : std::size_t {
  kRowQ,
  kRowK,
  kRowV,
  kRowY,
  kRowLse,
  kRowDy,
  kRowDq,
  kRowDk,
  kRowDv,
  kRowHeads,
  kRowKeyHeads
};

std::int64_t round_up(std::int64_t n, std::int64_t to) { return (n + to - 1) / to * to; }
std::size_t round_up(std::size_t n, std::size_t to) { return (n + to - 1) / to * to; }

// Why this shape is not worth asking for, or nothing; `backward` too.
const char* refusal(const AttentionShape& s, bool backward, int capability) {
  if (capability < 80) return "cuDNN's fused attention needs compute capability 8.0";
  const int generation = capability / 10;
  if (backward && s.packed && generation != 9 && generation != 10) return "packed gradients need compute capability 9";
  if (backward && s.deterministic && generation > 9) return "no deterministic gradients of this compute capability";
  if (s.dtype != DType::bf16 && s.dtype != DType::f16) return "cuDNN's fused attention is for bf16 and f16";
  if (s.head_dim != 64 && s.head_dim != 96 && s.head_dim != 128) return "a head dimension other than 64, 96 and 128";
  if (s.sequences < 1 || s.heads < 1 || s.kv_heads < 1 || s.heads % s.kv_heads != 0) return "an empty batch";
  if (s.max_query < 2 || s.max_keys < 2) return "sequences of one token";
  if (s.window < 0 || (s.window > 0 && !s.causal)) return "a window without a causal mask";
  if (s.as_many_keys && s.max_query != s.max_keys) return "as many keys as queries, and a different maximum";
  if (!s.packed && s.causal && s.max_query > s.max_keys) return "more queries than keys";
  if (s.packed && (s.query_rows < s.max_query || s.key_rows < s.max_keys))
    return "fewer rows than the longest sequence";
  // A dense length that is no multiple of the tile is read past its end (cuDNN up to 9.15).
  if (backward && !s.packed && s.max_keys % 128 != 0) return "dense sequences of no multiple of 128";
  const HeadStrides* all[] = {&s.q, &s.k, &s.v, &s.y, &s.dy, &s.dq, &s.dk, &s.dv};
  for (std::size_t i = 0; i < (backward ? std::size(all) : 4); ++i) {
    if (all[i]->row <= 0 || all[i]->head <= 0 || all[i]->row % 8 != 0 || all[i]->head % 8 != 0) {
      return "strides that are no multiples of 16 bytes";
    }
  }
  return nullptr;
}

}  // namespace

PackedIndex::PackedIndex(const AttentionShape& s, bool token_major_lse)
    : rows{{false, s.q.row},
           {true, s.k.row},
           {true, s.v.row},
           {false, s.y.row},
           {false, token_major_lse ? s.heads : 1},
           {false, s.dy.row},
           {false, s.dq.row},
           {true, s.dk.row},
           {true, s.dv.row},
           {false, s.heads * s.head_dim},
           {true, s.heads * s.head_dim}},
      sequences(s.sequences),
      row_elements(round_up(s.sequences + 1, 2)),
      length_elements(round_up(s.sequences, 4)),
      lengths_at(kRows * static_cast<std::size_t>(row_elements) * sizeof(std::int64_t)),
      bytes(lengths_at + 2 * static_cast<std::size_t>(length_elements) * sizeof(std::int32_t)) {}

void PackedIndex::fill(const std::int32_t* query_offsets, const std::int32_t* key_offsets, std::int64_t count,
                       void* out) const {
  if (count < 0 || count > sequences) {
    fail(ErrorCode::invalid_argument, "[attention] {} sequences, there is room for {}", count, sequences);
  }
  std::memset(out, 0, bytes);
  auto* row = static_cast<std::int64_t*>(out);
  for (const Row& r : rows) {
    const std::int32_t* offsets = r.keys ? key_offsets : query_offsets;
    for (std::int64_t i = 0; i <= sequences; ++i) row[i] = offsets[i < count ? i : count] * r.multiplier;
    row += row_elements;
  }
  auto* lengths = reinterpret_cast<std::int32_t*>(static_cast<char*>(out) + lengths_at);
  for (const std::int32_t* offsets : {query_offsets, key_offsets}) {
    for (std::int64_t i = 0; i < count; ++i) lengths[i] = offsets[i + 1] - offsets[i];
    lengths += length_elements;
  }
}

/// The operations of attention as cuDNN's engines know them: the order and the choice of operations are a pattern that
/// they match, so not every graph that computes the same has a plan.
struct AttentionGraph {
  const AttentionShape& s;
  const AttentionTuning& tuning;
  AttentionPlan& plan;
  Graph graph = {};
  PackedIndex index;
  Tensor query_lengths = {};
  Tensor key_lengths = {};
  std::size_t scratch_bytes = 0;

  const std::int64_t b = s.sequences, h = s.heads, hk = s.kv_heads, d = s.head_dim, sq = s.max_query, sk = s.max_keys;
  const cudnnDataType_t type = s.dtype == DType::bf16 ? CUDNN_DATA_BFLOAT16 : CUDNN_DATA_HALF;
  const Extents scores{b, h, sq, sk};
  const Extents per_query{b, h, sq, 1};

  AttentionGraph(const AttentionShape& shape, const AttentionTuning& how, AttentionPlan& into)
      : s(shape), tuning(how), plan(into), index(shape, how.lse == AttentionTuning::Lse::token_major) {
    if (!s.packed) return;
    const Extents one_each{b, 1, 1, 1};
    query_lengths = graph.tensor(one_each, {1, 1, 1, 1}, CUDNN_DATA_INT32);
    key_lengths = graph.tensor(one_each, {1, 1, 1, 1}, CUDNN_DATA_INT32);
    plan.uids_[AttentionPlan::kQueryLengths] = query_lengths.uid;
    plan.uids_[AttentionPlan::kKeyLengths] = key_lengths.uid;
    plan.query_lengths_at_ = index.lengths_at;
    plan.key_lengths_at_ = index.lengths_at + static_cast<std::size_t>(index.length_elements) * sizeof(std::int32_t);
  }

  Tensor ragged(IndexRow row) {
    if (!s.packed) return {};
    const auto bytes = static_cast<std::size_t>(index.row_elements) * sizeof(std::int64_t);
    for (const AttentionPlan::Inside& known : plan.index_) {
      if (known.offset == row * bytes) return {.uid = known.uid};
    }
    const Tensor made = graph.tensor({b + 1, 1, 1, 1}, {1, 1, 1, 1}, CUDNN_DATA_INT64);
    plan.index_.push_back({.uid = made.uid, .offset = row * bytes});
    return made;
  }

  // [b, heads, length, d] of the caller's.
  Tensor operand(AttentionPlan::Operand which, std::int64_t heads, std::int64_t length, const HeadStrides& at,
                 IndexRow row, bool transposed = false) {
    const Tensor made = transposed ? graph.tensor({b, heads, d, length}, {length * at.row, at.head, 1, at.row}, type,
                                                  Graph::Storage::memory, ragged(row))
                                   : graph.tensor({b, heads, length, d}, {length * at.row, at.head, at.row, 1}, type,
                                                  Graph::Storage::memory, ragged(row));
    plan.uids_[which] = made.uid;
    return made;
  }

  // Something per query of every head, f32, laid out like the log-sum-exp.
  Tensor query_values() {
    using Lse = AttentionTuning::Lse;
    if (!s.packed || tuning.lse == Lse::padded) {
      return graph.tensor(per_query, Graph::contiguous(per_query), CUDNN_DATA_FLOAT);
    }
    const Extents strides =
        tuning.lse == Lse::head_major ? Extents{h * s.query_rows, s.query_rows, 1, 1} : Extents{h * sq, 1, h, 1};
    return graph.tensor(per_query, strides, CUDNN_DATA_FLOAT, Graph::Storage::memory, ragged(kRowLse));
  }
  std::int64_t query_values_bytes() const {
    const std::int64_t rows = !s.packed || tuning.lse == AttentionTuning::Lse::padded ? b * sq : s.query_rows;
    return rows * h * static_cast<std::int64_t>(sizeof(float));
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
  Tensor integers(cudnnPointwiseMode_t mode, const Tensor& x, const Tensor& y) {
    const Tensor result = graph.computed(scores, CUDNN_DATA_INT32);
    graph.pointwise(mode, CUDNN_DATA_INT32, result, x, y);
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

    // Where sequences have more keys than queries, queries stand further along.
    const bool shifted = !s.as_many_keys;
    const Tensor keys = !shifted || s.packed ? key_lengths : graph.constant(static_cast<std::int32_t>(sk));
    const Tensor queries = !shifted || s.packed ? query_lengths : graph.constant(static_cast<std::int32_t>(sq));
    {
      Tensor row = positions(score, 2, CUDNN_DATA_FLOAT);
      const Tensor column = positions(score, 3, CUDNN_DATA_FLOAT);
      if (shifted) {
        row = integers(CUDNN_POINTWISE_ADD, row, keys);
        row = integers(CUDNN_POINTWISE_SUB, row, queries);
      }
      score = where(predicate(CUDNN_POINTWISE_CMP_GE, row, column), score);
    }
    if (s.window > 0) {
      const Tensor row = positions(score, 2, CUDNN_DATA_FLOAT);
      Tensor column = positions(score, 3, CUDNN_DATA_FLOAT);
      if (shifted) {
        column = integers(CUDNN_POINTWISE_ADD, column, graph.constant(static_cast<std::int32_t>(s.window)));
        column = integers(CUDNN_POINTWISE_SUB, column, keys);
        column = integers(CUDNN_POINTWISE_ADD, column, queries);
      } else {
        column = apply(CUDNN_POINTWISE_ADD, scores, column, graph.constant(static_cast<float>(s.window)));
      }
      score = where(predicate(CUDNN_POINTWISE_CMP_GT, column, row), score);
    }
    return score;
  }

  Tensor times(const Extents& dims, cudnnDataType_t to, const Tensor& a, const Tensor& b_,
               const Graph::Lengths& lengths) {
    const Tensor result = graph.computed(dims, to);
    graph.matmul(result, a, b_, lengths);
    return result;
  }

  void forward(bool lse) {
    const Tensor q = operand(AttentionPlan::kQ, h, sq, s.q, kRowQ);
    const Tensor k = operand(AttentionPlan::kK, hk, sk, s.k, kRowK, true);
    const Tensor v = operand(AttentionPlan::kV, hk, sk, s.v, kRowV);
    const Tensor y = operand(AttentionPlan::kY, h, sq, s.y, kRowY);

    Tensor score = times(scores, CUDNN_DATA_FLOAT, q, k, {.m = query_lengths, .n = key_lengths});
    score = masked(apply(CUDNN_POINTWISE_MUL, scores, score, graph.constant(s.scale)));

    const Tensor highest = graph.computed(per_query, CUDNN_DATA_FLOAT);
    graph.reduce(CUDNN_REDUCE_TENSOR_MAX, highest, score);
    const Tensor e = apply(CUDNN_POINTWISE_EXP, scores, apply(CUDNN_POINTWISE_SUB, scores, score, highest));
    const Tensor sum = graph.computed(per_query, CUDNN_DATA_FLOAT);
    graph.reduce(CUDNN_REDUCE_TENSOR_ADD, sum, e);
    // Part of the pattern even where nobody wants it.
    const Tensor log_sum_exp = lse ? query_values() : graph.computed(per_query, CUDNN_DATA_FLOAT);
    if (lse) plan.uids_[AttentionPlan::kLse] = log_sum_exp.uid;
    graph.pointwise(CUDNN_POINTWISE_ADD, CUDNN_DATA_FLOAT, log_sum_exp, highest,
                    apply(CUDNN_POINTWISE_LOG, per_query, sum));
    const Tensor weights = graph.computed(scores, type);
    graph.pointwise(CUDNN_POINTWISE_DIV, CUDNN_DATA_FLOAT, weights, e, sum);
    graph.matmul(y, weights, v, {.m = query_lengths, .k = key_lengths});
  }

  // grad [b, hk, sk, d] = sum over the heads of a group of transposed [b, h, sk, sq] times right.
  void into_key_heads(const Tensor& grad, const Tensor& transposed, const Tensor& right, const HeadStrides& at,
                      IndexRow row) {
    const Graph::Lengths lengths{.m = key_lengths, .k = query_lengths};
    if (h == hk) {
      graph.matmul(grad, transposed, right, lengths);
      return;
    }
    using Inner = AttentionTuning::Inner;
    const Extents dims{b, h, sk, d};
    Tensor full;
    if (!s.packed || tuning.full_heads == Inner::padded) {
      full = graph.computed(dims, type);
    } else if (tuning.full_heads == Inner::shared) {
      const std::int64_t group = h / hk;
      full = graph.tensor(dims, {sk * at.row * group, at.head, at.row * group, 1}, type, Graph::Storage::memory,
                          ragged(row));
      keep(full, 4 * ((s.key_rows - 1) * at.row * group + (h - 1) * at.head + d));
    } else {
      full = graph.tensor(dims, {sk * h * d, d, h * d, 1}, type, Graph::Storage::memory, ragged(kRowKeyHeads));
      keep(full, 4 * s.key_rows * h * d);
    }
    graph.matmul(full, transposed, right, lengths);
    graph.reduce(CUDNN_REDUCE_TENSOR_ADD, grad, full);
  }

  void backward() {
    const Tensor q = operand(AttentionPlan::kQ, h, sq, s.q, kRowQ);
    const Tensor k = operand(AttentionPlan::kK, hk, sk, s.k, kRowK, true);
    const Tensor v = operand(AttentionPlan::kV, hk, sk, s.v, kRowV, true);
    const Tensor y = operand(AttentionPlan::kY, h, sq, s.y, kRowY);
    const Tensor dy = operand(AttentionPlan::kDy, h, sq, s.dy, kRowDy);
    const Tensor dq = operand(AttentionPlan::kDq, h, sq, s.dq, kRowDq);
    const Tensor dk = operand(AttentionPlan::kDk, hk, sk, s.dk, kRowDk);
    const Tensor dv = operand(AttentionPlan::kDv, hk, sk, s.dv, kRowDv);
    const Tensor lse = query_values();
    plan.uids_[AttentionPlan::kLse] = lse.uid;
    const Tensor scale = graph.constant(s.scale);

    // delta = sum(dy * y) of each query. The product with 1 is where the pattern has dropout.
    const Tensor product = apply(CUDNN_POINTWISE_MUL, {b, h, sq, d}, dy, y);
    const Tensor sums = graph.computed(per_query, CUDNN_DATA_FLOAT);
    graph.reduce(CUDNN_REDUCE_TENSOR_ADD, sums, product);
    const Tensor delta = query_values();
    graph.pointwise(CUDNN_POINTWISE_MUL, CUDNN_DATA_FLOAT, delta, sums, graph.constant(1.0F));
    keep(delta, query_values_bytes());

    // p = exp(scale * q kᵀ - lse), dv = pᵀ dy
    Tensor score = times(scores, CUDNN_DATA_FLOAT, q, k, {.m = query_lengths, .n = key_lengths});
    score = apply(CUDNN_POINTWISE_MUL, scores, score, scale);
    score = masked(apply(CUDNN_POINTWISE_SUB, scores, score, lse));
    const Tensor p = apply(CUDNN_POINTWISE_EXP, scores, score);
    const Extents flipped{b, h, sk, sq};
    const Extents flipped_strides{h * sq * sk, sq * sk, 1, sk};
    const Tensor pt = graph.tensor(flipped, flipped_strides, type, Graph::Storage::computed);
    graph.reshape(pt, p);
    into_key_heads(dv, pt, dy, s.dv, kRowDv);

    // ds = scale * p * (dy vᵀ - delta), dk = dsᵀ q
    const Tensor dp = times(scores, CUDNN_DATA_FLOAT, dy, v, {.m = query_lengths, .n = key_lengths});
    Tensor ds = apply(CUDNN_POINTWISE_SUB, scores, dp, delta);
    ds = apply(CUDNN_POINTWISE_MUL, scores, ds, p);
    ds = apply(CUDNN_POINTWISE_MUL, scores, ds, scale);
    const Tensor dst = graph.tensor(flipped, flipped_strides, type, Graph::Storage::computed);
    graph.reshape(dst, ds);
    into_key_heads(dk, dst, q, s.dk, kRowDk);

    // dq = ds k: straight into dq, by way of a whole ds in the workspace; or added up in float32, in whichever order
    // the tiles of keys come.
    const Tensor keys = graph.tensor({b, hk, sk, d}, {sk * s.k.row, s.k.head, s.k.row, 1}, type,
                                     Graph::Storage::computed, ragged(kRowK));
    graph.reshape(keys, k);
    const Graph::Lengths lengths{.m = query_lengths, .k = key_lengths};
    if (s.deterministic) {
      graph.matmul(dq, ds, keys, lengths);
      return;
    }
    using Inner = AttentionTuning::Inner;
    const Extents dims{b, h, sq, d};
    Tensor sum;
    if (!s.packed || tuning.accumulator == Inner::padded) {
      sum = graph.tensor(dims, Graph::contiguous(dims), CUDNN_DATA_FLOAT);
      keep(sum, 4 * b * h * sq * d);
    } else if (tuning.accumulator == Inner::shared) {
      sum = graph.tensor(dims, {sq * s.dq.row, s.dq.head, s.dq.row, 1}, CUDNN_DATA_FLOAT, Graph::Storage::memory,
                         ragged(kRowDq));
      keep(sum, 4 * ((s.query_rows - 1) * s.dq.row + (h - 1) * s.dq.head + d));
    } else {
      sum = graph.tensor(dims, {sq * h * d, d, h * d, 1}, CUDNN_DATA_FLOAT, Graph::Storage::memory, ragged(kRowHeads));
      keep(sum, 4 * s.query_rows * h * d);
    }
    graph.matmul(sum, ds, keys, lengths);
    graph.pointwise(CUDNN_POINTWISE_IDENTITY, CUDNN_DATA_FLOAT, dq, sum);
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
  const auto [at, inserted] = plans_.try_emplace({pass, shape});
  if (!inserted) return *at->second;
  at->second = std::make_unique<AttentionPlan>();
  AttentionPlan& plan = *at->second;
  if (const char* reason = refusal(shape, pass == Pass::backward, device_.compute_capability()); reason != nullptr) {
    plan.reason_ = reason;
    return plan;
  }
  try {
    AttentionGraph graph(shape, tuning_, plan);
    if (pass == Pass::backward) {
      graph.backward();
    } else {
      graph.forward(pass == Pass::forward);
    }
    graph.build(device_, pass == Pass::backward && shape.deterministic);
  } catch (const CudnnRefusal& refused) {
    plan.reason_ = refused.what();
  }
  return plan;
}

const AttentionPlan& CudnnAttention::forward_plan(const AttentionShape& shape, bool lse) {
  AttentionShape key = shape;  // what the forward pass does not know makes no second plan
  key.dy = key.dq = key.dk = key.dv = {};
  key.deterministic = true;
  return plan(lse ? Pass::forward : Pass::inference, key);
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
  if (plan.uids_[AttentionPlan::kQueryLengths] != 0) {
    if (index == nullptr || reinterpret_cast<std::uintptr_t>(index) % 16 != 0) {
      fail(ErrorCode::invalid_argument, "[attention] the packed index is at {}, expected a multiple of 16", index);
    }
    bindings.push_back({plan.uids_[AttentionPlan::kQueryLengths], place(index, plan.query_lengths_at_)});
    bindings.push_back({plan.uids_[AttentionPlan::kKeyLengths], place(index, plan.key_lengths_at_)});
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
  const WorkScope scope({"cudnn attention"});
  void* const operands[] = {const_cast<void*>(at.q), const_cast<void*>(at.k), const_cast<void*>(at.v), at.y, at.lse};
  run(plan, stream, operands, at.index, workspace);
}

void CudnnAttention::backward(const AttentionPlan& plan, cudaStream_t stream, const AttentionBackwardOperands& at,
                              void* workspace) {
  const WorkScope scope({"cudnn attention backward"});
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
