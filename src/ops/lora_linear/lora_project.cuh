#pragma once

// g [tokens, R] = dy sB; and in the same pass over dy partial sums of dyᵀ h [columns, R], the gradient of B. A cluster
// of blocks has a range of rows, each group of warps in it every so many columns: g is added up over the cluster, the
// gradient over the ranges by whoever comes next.

#include "ops/lora_linear/lora_skinny.cuh"

namespace wick::cuda::skinny {

template <class T>
struct Project {
  CUtensorMap dy;  // boxes of dy [rows, columns]
  CUtensorMap b;   // narrow boxes of sB [columns, R]
  CUtensorMap h;   // narrow boxes of h [rows, R]
  T* g;            // [rows, R]
  std::int64_t g_stride;
  int rows, columns;
  int boxes;       // of 64 rows, of each range
  float* partial;  // [ranges, columns, R]; only what belongs to a sibling is written
  Siblings siblings;
};

template <int R>
struct ProjectShape {
  static constexpr int kArrivals = 512;   // bytes
  static constexpr int kMaxRowBoxes = 9;  // the registers hold the sums of a range
  static constexpr int kFactors = 4;      // places for the factor's rows of 64 columns, of each group
  static constexpr int kH = kMaxRowBoxes * kNarrow<R>;
  static constexpr int kStages =
      (kSharedLimit - kArrivals - kH - kGroups * kFactors * kNarrow<R>) / (kGroups * kBoxBytes);  // of each group
  static constexpr int kRing = kGroups * kStages * kBoxBytes;
  static constexpr int kBytes = 1024 + kRing + kGroups * kFactors * kNarrow<R> + kH + kArrivals;
  static_assert(kBytes - 1024 - kArrivals >= kGroups * kMaxRowBoxes * kBox * R * 4,
                "the exchange takes the place of all this");
  static_assert((2 * kGroups * kStages + 1) * sizeof(Arrival) <= kArrivals);
};

/// The part of `outer` that one tile of columns and one range of rows give, from the warp's 16 columns, whose first is
/// `column`.
template <int R>
__device__ inline void store_partial(const float (&outer)[R / 2], float* partial, int column, int columns, int lane,
                                     const Siblings& siblings) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int n = column + lane / 4 + 8 * half;
    if (n >= columns) continue;
    int from = 0;
    int to = 0;
    for (int i = 0; i < siblings.count; ++i) {
      const Siblings::Block& block = siblings.blocks[i];
      if (n < block.out_begin || n >= block.out_end || block.db == nullptr) continue;
      from = block.rank_begin / 4 * 4;  // add_partials() reads four at a time
      to = (block.rank_end + 3) / 4 * 4;
    }
#pragma unroll
    for (int j = 0; j < R / 8; ++j) {
      const int r = 8 * j + 2 * (lane % 4);
      if (r + 1 < from || r >= to) continue;
      const float2 pair = {outer[4 * j + 2 * half], outer[4 * j + 2 * half + 1]};
      *reinterpret_cast<float2*>(partial + static_cast<std::int64_t>(n) * R + r) = pair;
    }
  }
}

/// Adds up the partial sums of the gradients of B, by the first kWorking threads of all blocks.
template <int R, int kWorking = kMultiplying>
__device__ inline void add_partials(const float* partial, int ranges, int n, const Siblings& siblings) {
  const std::int64_t count = static_cast<std::int64_t>(n) * R;
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * kWorking * 4;
  for (std::int64_t id = (static_cast<std::int64_t>(blockIdx.x) * kWorking + threadIdx.x) * 4; id < count; id += step) {
    const int row = static_cast<int>(id / R);
    const int first = static_cast<int>(id % R);
    for (int i = 0; i < siblings.count; ++i) {
      const Siblings::Block& block = siblings.blocks[i];
      if (row < block.out_begin || row >= block.out_end || block.db == nullptr) continue;
      if (first + 4 <= block.rank_begin || first >= block.rank_end) continue;
      float sum[4] = {};
#pragma unroll 15
      for (int range = 0; range < ranges; ++range) {
        const float4 part = *reinterpret_cast<const float4*>(partial + range * count + id);
        sum[0] += part.x;
        sum[1] += part.y;
        sum[2] += part.z;
        sum[3] += part.w;
      }
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int r = first + e;
        if (r < block.rank_begin || r >= block.rank_end) continue;
        float& db = block.db[(row - block.out_begin) * block.db_stride + r - block.rank_begin];
        db = (siblings.add ? db : 0.0F) + block.scale * sum[e];
      }
    }
  }
}

template <class T, int R>
__global__ __launch_bounds__(kThreads, 1) void project_kernel(const __grid_constant__ Project<T> p) {
#ifdef WICK_WARP_GROUPS
  using Shape = ProjectShape<R>;
  unsigned char* const ring = aligned_shared();
  unsigned char* const factors = ring + Shape::kRing;
  unsigned char* const h = factors + kGroups * Shape::kFactors * kNarrow<R>;
  auto* const full = reinterpret_cast<Arrival*>(h + Shape::kH);
  Arrival* const empty = full + kGroups * Shape::kStages;
  Arrival* const h_came = empty + kGroups * Shape::kStages;
  const Place place;

  const int rank = static_cast<int>(cluster_rank());
  const int blocks = static_cast<int>(cluster_blocks());
  const int range = static_cast<int>(blockIdx.x) / blocks;
  const int first_row = range * p.boxes * kBox;
  const int boxes = min(p.boxes, (p.rows - first_row + kBox - 1) / kBox);
  const int slabs = (p.columns + kBox - 1) / kBox;
  // A slab's place for the factor is fetched to again once all of its boxes are known to be free.
  const int stages = min(Shape::kStages, (Shape::kFactors - 1) * boxes + 1);

  if (threadIdx.x == 0) {
    for (int s = 0; s < kGroups * Shape::kStages; ++s) {
      arrival_init(full + s);
      arrival_init(empty + s, 4);  // a group's warps
    }
    arrival_init(h_came);
    for (const CUtensorMap* map : {&p.dy, &p.b, &p.h}) prefetch(*map);
  }
  show_to_products();
  __syncthreads();
  wait_for_previous();
  allow_next();

  if (place.group == kGroups) {
    give_registers<kFetchRegisters>();
    // A warp for each group, whose first thread fetches.
    const int served = place.warp;
    const bool fetches = place.lane == 0 && served < kGroups;
    if (fetches && served == 0) {
      arrival_expect(h_came, static_cast<unsigned>(boxes * kNarrow<R>));
      for (int s = 0; s < boxes; ++s) load_narrow<R>(h + s * kNarrow<R>, p.h, first_row + s * kBox, h_came);
    }
    int piece = 0;
    int turn = 0;
    for (int slab = rank * kGroups + served; fetches && slab < slabs; slab += blocks * kGroups, ++turn) {
      for (int s = 0; s < boxes; ++s, ++piece) {
        const int stage = served * Shape::kStages + piece % stages;
        arrival_wait(empty + stage, static_cast<unsigned>(piece / stages + 1) & 1U);  // at once in the first round
        arrival_expect(full + stage, s == 0 ? kBoxBytes + kNarrow<R> : kBoxBytes);
        load_box(shared_address(ring + stage * kBoxBytes), p.dy, slab * kBox, first_row + s * kBox, full + stage);
        if (s > 0) continue;
        unsigned char* const factor = factors + (served * Shape::kFactors + turn % Shape::kFactors) * kNarrow<R>;
        load_narrow<R>(factor, p.b, slab * kBox, full + stage);
      }
    }
    __syncwarp();  // the cluster's barriers are of whole warps
    cluster_sync();
    cluster_leave();
    return;
  }

  take_registers<kRegisters>();
  float sums[Shape::kMaxRowBoxes][R / 2] = {};
  arrival_wait(h_came, 0);
  int piece = 0;
  int turn = 0;
  for (int slab = rank * kGroups + place.group; slab < slabs; slab += blocks * kGroups, ++turn) {
    const std::uint32_t factor =
        shared_address(factors + (place.group * Shape::kFactors + turn % Shape::kFactors) * kNarrow<R>);
    float outer[R / 2];
#pragma unroll
    for (int s = 0; s < Shape::kMaxRowBoxes; ++s) {
      if (s >= boxes) break;
      const int stage = place.group * Shape::kStages + piece % stages;
      arrival_wait(full + stage, static_cast<unsigned>(piece / stages) & 1U);
      const std::uint64_t dy = tile_descriptor(shared_address(ring + stage * kBoxBytes));
      settle(sums[s]);
      settle(outer);
      begin_products();
#pragma unroll
      for (int k = 0; k < kBox / 16; ++k) {
        multiply_add_narrow<T, R, Along::k>(sums[s], dy + 2 * k, narrow_descriptor(factor) + 32 * k, true);
        multiply_add_narrow<T, R, Along::rows>(
            outer, dy + 128 * k, narrow_descriptor(shared_address(h + s * kNarrow<R>)) + 32 * k, s > 0 || k > 0);
      }
      close_products();
      wait_products<0>();
      settle(sums[s]);
      settle(outer);
      if (place.lane == 0) arrive(empty + stage);
      ++piece;
    }
    store_partial<R>(outer, p.partial + static_cast<std::int64_t>(range) * p.columns * R, slab * kBox + 16 * place.warp,
                     p.columns, place.lane, p.siblings);
  }

  // Each block adds up a share of the rows from all groups of its cluster.
  barrier_of_first<kMultiplying>();
  float* const exchange = reinterpret_cast<float*>(ring);  // [kGroups, boxes * kBox, R]
  const int group_size = boxes * kBox * R;
#pragma unroll
  for (int s = 0; s < Shape::kMaxRowBoxes; ++s) {
    if (s >= boxes) break;
    float* const to =
        exchange + place.group * group_size + (s * kBox + 16 * place.warp + place.lane / 4) * R + 2 * (place.lane % 4);
#pragma unroll
    for (int j = 0; j < R / 8; ++j) {
      *reinterpret_cast<float2*>(to + 8 * j) = {sums[s][4 * j], sums[s][4 * j + 1]};
      *reinterpret_cast<float2*>(to + 8 * j + 8 * R) = {sums[s][4 * j + 2], sums[s][4 * j + 3]};
    }
  }
  cluster_sync();
  const int rows = min(boxes * kBox, p.rows - first_row);
  const int share = (rows + blocks - 1) / blocks;
  const int from = min(rank * share, rows);
  const int mine = min(share, rows - from);
  for (int id = static_cast<int>(threadIdx.x); id < mine * (R / 4); id += kMultiplying) {
    const int row = from + id / (R / 4);
    const int r = id % (R / 4) * 4;
    const float* const here = exchange + row * R + r;
    float4 sum = {};
#pragma unroll
    for (unsigned q = 0; q < kMaxCluster; ++q) {
      if (q >= static_cast<unsigned>(blocks)) break;
#pragma unroll
      for (int group = 0; group < kGroups; ++group) {
        const float4 part = *reinterpret_cast<const float4*>(in_block(here + group * group_size, q));
        sum.x += part.x;
        sum.y += part.y;
        sum.z += part.z;
        sum.w += part.w;
      }
    }
    Pack<T, 4> pack;
    pack[0] = from_float<T>(sum.x);
    pack[1] = from_float<T>(sum.y);
    pack[2] = from_float<T>(sum.z);
    pack[3] = from_float<T>(sum.w);
    store_pack(p.g + (first_row + row) * p.g_stride + r, pack);
  }
  cluster_leave();
#endif
}

/// add_partials() by itself, where no gradient of A is wanted.
template <int R>
__global__ __launch_bounds__(kMultiplying) void add_partials_kernel(const float* partial, int ranges, int n,
                                                                    const __grid_constant__ Siblings siblings) {
  wait_for_previous();
  allow_next();
  add_partials<R>(partial, ranges, n, siblings);
}

}  // namespace wick::cuda::skinny
