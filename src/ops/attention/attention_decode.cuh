#pragma once

// The frame of the decode kernels: which keys a block takes, and how the softmaxes of warps, blocks and clusters over
// their keys are joined. What a warp does with its keys is in attention_decode_sums.cuh.

#include "backend/cuda/cluster.cuh"
#include "backend/cuda/ptx.cuh"
#include "ops/attention/attention_cuda.cuh"

namespace wick::cuda {

inline constexpr int kDecodeThreads = 256;
inline constexpr int kDecodeWarps = kDecodeThreads / 32;

/// A token's key and value before they are in the cache, whose last row they become: see attention_append().
template <class T>
struct NewKey {
  Heads<const T> k, v;
  T *keys, *values;        // the cache, dense
  const float *cos, *sin;  // [positions, d / 2]
  int rows;                // of the tables and the cache, the fewer
  bool at_rest;            // all that is read but q, k and v may be read before the kernel ahead has ended
};

template <class T>
struct DecodeArguments {
  AttentionProblem problem;
  Heads<const T> q, k, v;
  Heads<T> y;
  float* lse;  // null: not wanted
  std::int64_t lse_row;
  int lanes;     // that share a key, where lanes do the sums: 8, 16 or 32
  int chunks;    // units of a group
  int clusters;  // of a unit, at most
  float* parts;  // [units, blocks of a cluster, clusters, part]
  NewKey<T> added = {};
};

/// Adds one to a counter, which wraps to 0 after `last`, and returns what it was. What the block wrote before a barrier
/// in front of this is seen by those who come later.
__device__ inline unsigned count_up(unsigned* counter, unsigned last) {
  unsigned before;
  asm volatile("atom.acq_rel.gpu.global.inc.u32 %0, [%1], %2;"
               : "=r"(before)
               : "l"(__cvta_generic_to_global(counter)), "r"(last)
               : "memory");
  return before;
}

/// What a cluster works on: a unit is a query's heads of one key head, or as many of them as a block takes.
struct DecodeUnit {
  int index;
  int cluster;  // among those of the unit
  int token;
  int kv_head;
  int first_head;
  int head_count;

  template <class T>
  __device__ DecodeUnit(const DecodeArguments<T>& in, int heads_at_once) {
    const AttentionProblem& p = in.problem;
    const int number = static_cast<int>(blockIdx.x / cluster_blocks());
    cluster = number % in.clusters;
    index = number / in.clusters;
    const int chunk = index % in.chunks;
    kv_head = index / in.chunks % p.kv_heads;
    token = index / in.chunks / p.kv_heads;
    first_head = kv_head * p.group() + chunk * heads_at_once;
    head_count = ::min(heads_at_once, p.group() - chunk * heads_at_once);
  }
};

/// The sequence that a query belongs to, by a whole warp: 32 boundaries at a time, so that few sequences cost one
/// round trip. Reads past L1, where what a kernel reads before wait_for_previous() would stay.
__device__ inline Sequence sequence_at(const AttentionProblem& p, int token) {
  const auto at = [&](const std::int32_t* offsets, int tokens, int s) {
    return s > p.sequences ? tokens : ::min(::max(__ldcg(offsets + s), 0), tokens);
  };
  Sequence found = {};
#pragma unroll 1
  for (int first = 0; first <= p.sequences; first += 32) {
    const int s = first + static_cast<int>(threadIdx.x) % 32;
    const int query = at(p.query_offsets, p.tokens, s);
    const int next_query = at(p.query_offsets, p.tokens, s + 1);
    const int key = at(p.key_offsets, p.key_tokens, s);
    const int next_key = s < p.sequences ? at(p.key_offsets, p.key_tokens, s + 1) : key;  // left over: none
    const unsigned begun = __ballot_sync(0xffffffffU, s <= p.sequences && query <= token);
    if (begun == 0) break;
    const int lane = 31 - __clz(static_cast<int>(begun));
    found.first_query = __shfl_sync(0xffffffffU, query, lane);
    found.queries = ::max(0, __shfl_sync(0xffffffffU, next_query, lane) - found.first_query);
    found.first_key = __shfl_sync(0xffffffffU, key, lane);
    found.keys = ::max(0, __shfl_sync(0xffffffffU, next_key, lane) - found.first_key);
  }
  return found;
}

/// The keys of a block, as rows of k and v, and how many clusters of the unit have any. Warp w of it takes tiles w,
/// w + kDecodeWarps, ... of `tile` keys, `tiles` of them at a time. A cluster is joined by another one only when its
/// blocks would have to go round again: joining clusters costs more than joining blocks.
struct DecodeShare {
  int begin;
  int end;
  int clusters;

  __device__ DecodeShare(const AttentionProblem& p, const DecodeUnit& unit, int clusters_at_most, int tile, int tiles) {
    const Sequence s = sequence_at(p, unit.token);
    const int row = unit.token - s.first_query;
    const Meeting sees(p, s, Side::queries, row, row >= 0 && row < s.queries ? 1 : 0);
    const auto up = [](int a, int b) { return (a + b - 1) / b; };
    const auto blocks = static_cast<int>(cluster_blocks());
    clusters = ::max(1, ::min(clusters_at_most, up(sees.size(), blocks * kDecodeWarps * tile * tiles)));
    const int keys = up(up(sees.size(), clusters * blocks), tile) * tile;
    const int skipped = (unit.cluster * blocks + static_cast<int>(cluster_rank())) * keys;
    begin = s.first_key + sees.begin() + ::min(skipped, sees.size());
    end = s.first_key + sees.begin() + ::min(skipped + keys, sees.size());
  }
  __device__ int first_of(int warp, int tile) const { return begin + warp * tile; }
};

/// Brings the rows that the calling warp reads first into L2, before wait_for_previous(): the offsets may still change,
/// or rows be written, so this is a guess, mostly a good one. Nothing where kernels do not overlap.
template <class T>
__device__ inline void prefetch_share([[maybe_unused]] const DecodeArguments<T>& in,
                                      [[maybe_unused]] const DecodeUnit& unit, [[maybe_unused]] int tile,
                                      [[maybe_unused]] int tiles) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  const DecodeShare share(in.problem, unit, in.clusters, tile, tiles);
  constexpr int kPiece = 64 / static_cast<int>(sizeof(T));
  const int pieces = (in.problem.head_dim + kPiece - 1) / kPiece;
  const auto thread = static_cast<int>(threadIdx.x);
#pragma unroll 1
  for (int i = thread % 32; i < tile * tiles * pieces; i += 32) {
    const int number = i / pieces;
    const int key = share.first_of(thread / 32, tile) + number / tile * kDecodeWarps * tile + number % tile;
    if (key >= share.end) break;
    prefetch(in.k.at(key, unit.kv_head) + i % pieces * kPiece);
    prefetch(in.v.at(key, unit.kv_head) + i % pieces * kPiece);
  }
#endif
}

/// The softmax over some keys, for some of the elements of `heads` heads: `packs` times four sums of weighted values,
/// not divided by anything, then the heads' highest scores (in powers of two), then their sums of weights.
struct PartShape {
  int packs;
  int heads;

  __host__ __device__ int floats() const { return 4 * packs + (2 * heads + 3) / 4 * 4; }
  __host__ __device__ int highest(int head) const { return 4 * packs + head; }
  __host__ __device__ int total(int head) const { return 4 * packs + heads + head; }
};

struct Joined {
  Pack<float> sums;
  float highest;
  float total;
};

/// Four sums and their head's weights over `count` parts that lie one after the other. kFresh: other blocks have just
/// written them.
template <bool kFresh>
__device__ inline Joined join(const float* parts, int count, PartShape shape, int pack, int head) {
  constexpr int kAtOnce = 8;
  Joined all = {{0, 0, 0, 0}, -INFINITY, 0};
#pragma unroll 1
  for (int first = 0; first < count; first += kAtOnce) {
    Pack<float> sums[kAtOnce];
    float highest[kAtOnce];
    float total[kAtOnce];
    float top = all.highest;
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const bool there = first + i < count;
      const float* part = parts + static_cast<std::int64_t>(there ? first + i : first) * shape.floats();
      if constexpr (kFresh) {
        const float4 four = __ldcg(reinterpret_cast<const float4*>(part) + pack);
        sums[i] = {four.x, four.y, four.z, four.w};
        highest[i] = __ldcg(part + shape.highest(head));
        total[i] = __ldcg(part + shape.total(head));
      } else {
        sums[i] = load_pack(part + 4 * pack);
        highest[i] = part[shape.highest(head)];
        total[i] = part[shape.total(head)];
      }
      if (!there) highest[i] = -INFINITY;
      top = fmaxf(top, highest[i]);
    }
    const float base = top == -INFINITY ? 0.0F : top;
    const float keep = fast_exp2(all.highest - base);
    all.highest = top;
    all.total *= keep;
#pragma unroll
    for (int e = 0; e < 4; ++e) all.sums[e] *= keep;
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const float factor = fast_exp2(highest[i] - base);
      all.total = fmaf(factor, total[i], all.total);
#pragma unroll
      for (int e = 0; e < 4; ++e) all.sums[e] = fmaf(factor, sums[i][e], all.sums[e]);
    }
  }
  return all;
}

}  // namespace wick::cuda
