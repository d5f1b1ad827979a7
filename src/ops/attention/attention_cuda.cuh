#pragma once

// What the CUDA attention kernels share: the problem as kernels see it, how a block finds its tile of a packed batch,
// and who sees whom. Sequence boundaries lie on the device: grids have an upper bound of tiles, and blocks without one
// leave.

#include <climits>
#include <numbers>

#include "backend/cuda/kernels.cuh"
#include "ops/attention/attention_cuda.h"

namespace wick::cuda {

inline constexpr int kMaxHeadDim = 256;

/// [tokens, heads, d] with dense d.
template <class T>
struct Heads {
  T* data;
  std::int64_t row;
  std::int64_t head;

  __device__ T* at(std::int64_t token, int h) const { return data + token * row + h * head; }
};
template <class T>
Heads<T> by_heads(const Tensor& t) {
  return t.defined() ? Heads<T>{pointer<T>(t), t.stride(0), t.stride(1)} : Heads<T>{};
}

struct AttentionProblem {
  const std::int32_t* query_offsets;  // [sequences + 1], not to be trusted
  const std::int32_t* key_offsets;
  int sequences;
  int tokens;
  int key_tokens;
  int heads;
  int kv_heads;
  int head_dim;
  int window;  // 0: all
  float scale;
  bool causal;
  bool vectors;       // every row of every head starts on 16 bytes
  const float* bias;  // [heads, 2 reach + 1]; null: none
  int reach;
  float bias_factor;  // brings the bias to scores that are not scaled yet

  __host__ __device__ int group() const { return heads / kv_heads; }
};

/// True if every row of every head of [tokens, heads, d] tensors starts on 16 bytes; undefined ones are left out.
bool vectors_in(std::initializer_list<const Tensor*> tensors);
/// The problem of some arguments; `rows` are all that kernels read and write in vectors.
AttentionProblem attention_problem(const Tensor& q, const Tensor& k, const AttentionLayout& layout,
                                   std::initializer_list<const Tensor*> rows);
/// Operations of `products` matrix products over the scores, for the profile: of equally long sequences, whose true
/// lengths only the device knows.
double attention_flops(const AttentionProblem& p, int products);

/// delta [heads, tokens] f32 = the sum of dy * y over each row.
Tensor attention_delta(const Tensor& dy, const Tensor& y, const AttentionProblem& p);
/// Of each query side by side -lse in powers of two, -inf for one that sees no key, and delta: f32 [2 heads, 2 tokens],
/// tokens made even; nobody writes what is behind the last one. Row 2 h begins with the first query, row 2 h + 1 with
/// the second, so that any run of queries begins on 16 bytes in one of them.
Tensor attention_terms(const Tensor& dy, const Tensor& y, const Tensor& lse, const AttentionProblem& p);

/// Splits of a group's heads, so that few heads of keys (as few as one) still fill the device with tiles of `rows`
/// keys: three blocks for each multiprocessor, once there are fewer than one and a half.
int attention_splits(std::int64_t key_tokens, std::int64_t kv_heads, std::int64_t group, int rows);
/// dk and dv, where they are defined, from the sums of splits: f32 [2 (dk, dv), splits, key_tokens, kv_heads,
/// head_dim].
void attention_join(const Tensor& parts, const AttentionProblem& p, const Tensor& dk, const Tensor& dv);

/// Queries or keys: whose rows a block holds while it walks over the others.
enum class Side { queries, keys };

struct Sequence {
  int first_query;
  int queries;
  int first_key;
  int keys;

  __device__ int shift() const { return keys - queries; }  // query i stands at key i + shift
};

/// Where sequence s begins, forced into [0, tokens]. The rows after the last sequence count as one more.
__device__ inline int boundary(const std::int32_t* offsets, int sequences, int tokens, int s) {
  return s > sequences ? tokens : ::min(::max(offsets[s], 0), tokens);
}

/// The last of [0, last] that `begun` holds for; it holds for all before one that it holds for. 0 if there is none.
template <class Begun>
__device__ inline int last_begun(int last, const Begun& begun) {
  int low = 0;
  while (low < last) {
    const int middle = low + (last - low + 1) / 2;
    if (begun(middle)) {
      low = middle;
    } else {
      last = middle - 1;
    }
  }
  return low;
}

/// Sequence s; of those rows that come after the last one, the side `own` only.
__device__ inline Sequence sequence_of(const AttentionProblem& p, int s, Side own) {
  Sequence found = {};
  if (s < p.sequences || own == Side::queries) {
    found.first_query = boundary(p.query_offsets, p.sequences, p.tokens, s);
    found.queries = ::max(0, boundary(p.query_offsets, p.sequences, p.tokens, s + 1) - found.first_query);
  }
  if (s < p.sequences || own == Side::keys) {
    found.first_key = boundary(p.key_offsets, p.sequences, p.key_tokens, s);
    found.keys = ::max(0, boundary(p.key_offsets, p.sequences, p.key_tokens, s + 1) - found.first_key);
  }
  return found;
}

/// `rows` queries or keys of one sequence, at most: its rows [first, first + count).
struct AttentionTile {
  Sequence sequence;
  int first;
  int count;  // 0: the slot is empty
};

/// Slots of tiles: sequence s has those from boundary(s) / rows + s on, never fewer than it has tiles, so that a block
/// finds its own by bisection.
inline std::int64_t tile_slots(const AttentionProblem& p, Side own, int rows) {
  return (own == Side::queries ? p.tokens : p.key_tokens) / rows + static_cast<std::int64_t>(p.sequences) + 1;
}
__device__ inline AttentionTile find_tile(const AttentionProblem& p, Side own, int rows, int slot) {
  const std::int32_t* offsets = own == Side::queries ? p.query_offsets : p.key_offsets;
  const int tokens = own == Side::queries ? p.tokens : p.key_tokens;
  const auto first_slot = [&](int s) { return boundary(offsets, p.sequences, tokens, s) / rows + s; };
  const int s = last_begun(p.sequences, [&](int i) { return first_slot(i) <= slot; });
  AttentionTile tile = {sequence_of(p, s, own), 0, 0};
  const int length = own == Side::queries ? tile.sequence.queries : tile.sequence.keys;
  const int index = slot - first_slot(s);
  if (index < 0 || index > length / rows) return tile;
  tile.first = index * rows;
  tile.count = ::min(rows, length - tile.first);
  return tile;
}

/// What the bias adds to the unscaled score of a query of sequence s and a key: rows of their sequence, 0 the first.
__device__ inline float bias_of(const AttentionProblem& p, const Sequence& s, int head, int query, int key) {
  const int distance = key - (query + s.shift());
  return p.bias_factor * __ldg(p.bias + head * (2 * p.reach + 1) + p.reach + ::min(::max(distance, -p.reach), p.reach));
}

struct Range {
  int begin;
  int end;
};
/// The keys that a query of the sequence sees, or the queries that see a key. Both ends grow with `row`.
__device__ inline Range partners(const AttentionProblem& p, const Sequence& s, Side own, int row) {
  if (own == Side::queries) {
    if (!p.causal) return {0, s.keys};
    const int position = row + s.shift();
    return {p.window > 0 ? ::max(0, position - p.window + 1) : 0, ::max(0, ::min(position + 1, s.keys))};
  }
  if (!p.causal) return {0, s.queries};
  const int diagonal = row - s.shift();
  return {::max(0, diagonal), p.window > 0 ? ::min(diagonal + p.window, s.queries) : s.queries};
}

/// The partners of `count` rows from `row` on; nobody's when there are none.
struct Meeting {
  Range first;  // of the first row
  Range last;

  __device__ Meeting(const AttentionProblem& p, const Sequence& s, Side own, int row, int count)
      : first(count > 0 ? partners(p, s, own, row) : Range{0, 0}),
        last(count > 0 ? partners(p, s, own, row + count - 1) : Range{0, 0}) {}
  __device__ int begin() const { return first.begin; }
  __device__ int size() const { return ::max(0, last.end - first.begin); }
  /// None of the rows meets any of [at, at + n).
  __device__ bool never(int at, int n) const { return at >= last.end || at + n <= first.begin; }
  /// Each of the rows meets all of them.
  __device__ bool always(int at, int n) const { return at >= last.begin && at + n <= first.end; }
};

/// Over the four lanes that share a row of accumulators.
__device__ inline float quad_max(float value) {
  value = fmaxf(value, __shfl_xor_sync(0xffffffffU, value, 1));
  return fmaxf(value, __shfl_xor_sync(0xffffffffU, value, 2));
}
__device__ inline float quad_sum(float value) {
  value += __shfl_xor_sync(0xffffffffU, value, 1);
  return value + __shfl_xor_sync(0xffffffffU, value, 2);
}

/// log(sum(exp)) from the running maximum of scores (times `scale`) and the sum over it; -inf where nothing was summed.
__device__ inline float log_sum_exp(float highest, float total, float scale) {
  return total == 0 ? -INFINITY : highest * scale + logf(total);
}

}  // namespace wick::cuda
