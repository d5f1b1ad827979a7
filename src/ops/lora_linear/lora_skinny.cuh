#pragma once

// Products of a tall matrix [tokens, columns] with a rank, on the tensor cores of Hopper. The matrix is read once, in
// boxes of 64 x 64 that the copy engine brings to a ring in shared memory, where products take them along their rows
// and along their columns; whatever has the rank as an extent stays in registers or shared memory.
//
//   project: g [tokens, R] = dy sB; and in the same pass partial sums of dyᵀ h [columns, R], the gradient of B. A
//            cluster of blocks has a range of rows, each group of warps in it every so many columns: g is added up over
//            the cluster, the gradient over the ranges by whoever comes next.
//   outer:   gᵀ x [R, columns], the gradient of A. A cluster has 64 or 128 columns, each of its blocks some of the
//            rows, so the sum is complete within the cluster.
//
// All sums are made in a fixed order.

#include "backend/cuda/cluster.cuh"
#include "backend/cuda/kernels.cuh"
#include "backend/cuda/warp_group.cuh"

namespace wick::cuda::skinny {

constexpr int kBox = 64;  // rows and columns
constexpr int kBoxBytes = kBox * kBox * 2;
constexpr int kGroups = 2;                    // of four warps that multiply
constexpr int kMultiplying = kGroups * 128;   // threads
constexpr int kThreads = kMultiplying + 128;  // and a group that fetches, which leaves its registers to the others
constexpr int kFetchRegisters = 40;
constexpr int kRegisters = 232;
constexpr int kMaxBlocks = 8;
constexpr int kSharedLimit = 227 * 1024 - 1024;  // a block's, but for what the alignment may take
constexpr int kArrivals = 512;                   // bytes of it

/// 64 rows of a matrix with the rank as its width.
template <int R>
constexpr int kNarrow = kBox* R * 2;

/// Where the siblings' shares of the factors' gradients go; see LoraWeight::Block.
struct Siblings {
  struct Block {
    int out_begin, out_end, rank_begin, rank_end;
    float scale;
    float *da, *db;  // null: not wanted
    std::int64_t da_stride, db_stride;
  };
  int count;
  bool add;  // to what da and db hold
  Block blocks[kMaxBlocks];
};

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

template <class T>
struct Outer {
  CUtensorMap x;  // boxes of x [rows, columns]
  CUtensorMap g;  // narrow boxes of g [rows, R]
  int rows, columns;
  bool halves;           // a block's groups take turns with the rows of 64 columns, instead of 64 columns each
  int block_rows;        // a multiple of what a stage holds: 64, in halves 128
  const float* partial;  // project's, [ranges, n, R]; null: no gradient of B is wanted
  int ranges, n;
  Siblings siblings;
};

template <int R>
struct ProjectShape {
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

template <int R>
struct OuterShape {
  static constexpr int kStage = kGroups * (kBoxBytes + kNarrow<R>);
  static constexpr int kStages = (kSharedLimit - kArrivals) / kStage;
  static constexpr int kBytes = 1024 + kStages * kStage + kArrivals;
  static constexpr int kPitch = kBox + 4;  // floats: 8 columns of 4 pairs of ranks lie in 32 banks
  static_assert(kStages * kStage >= kGroups * R * kPitch * 4, "the exchange takes the ring's place");
};

/// The block's shared memory from a boundary that swizzled boxes want.
__device__ inline unsigned char* aligned_shared() {
  extern __shared__ __align__(1024) unsigned char swizzled[];
  return swizzled + ((1024 - (shared_address(swizzled) & 1023)) & 1023);
}

/// The boxes of 64 rows of a narrow matrix.
template <int R>
__device__ inline void load_narrow(unsigned char* to, const CUtensorMap& map, int row, Arrival* arrival) {
#pragma unroll
  for (int j = 0; j < R / 16; ++j) load_box(shared_address(to + j * kNarrow<16>), map, 16 * j, row, arrival);
}

/// What both kernels know of a thread.
struct Place {
  int lane = static_cast<int>(threadIdx.x % 32);
  int warp = static_cast<int>(threadIdx.x / 32 % 4);  // of its group
  int group = static_cast<int>(threadIdx.x / 128);    // kGroups: those that fetch
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

/// Adds up the partial sums of the gradients of B, by the first kMultiplying threads of all blocks.
template <int R>
__device__ inline void add_partials(const float* partial, int ranges, int n, const Siblings& siblings) {
  const std::int64_t count = static_cast<std::int64_t>(n) * R;
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * kMultiplying * 4;
  for (std::int64_t id = (static_cast<std::int64_t>(blockIdx.x) * kMultiplying + threadIdx.x) * 4; id < count;
       id += step) {
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
    if (place.lane > 0 || served >= kGroups) return;
    if (served == 0) {
      arrival_expect(h_came, static_cast<unsigned>(boxes * kNarrow<R>));
      for (int s = 0; s < boxes; ++s) load_narrow<R>(h + s * kNarrow<R>, p.h, first_row + s * kBox, h_came);
    }
    int piece = 0;
    int turn = 0;
    for (int slab = rank * kGroups + served; slab < slabs; slab += blocks * kGroups, ++turn) {
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
  __syncthreads();
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

template <class T, int R>
__global__ __launch_bounds__(kThreads, 1) void outer_kernel(const __grid_constant__ Outer<T> p) {
#ifdef WICK_WARP_GROUPS
  using Shape = OuterShape<R>;
  unsigned char* const ring = aligned_shared();
  auto* const full = reinterpret_cast<Arrival*>(ring + Shape::kStages * Shape::kStage);
  Arrival* const empty = full + Shape::kStages;
  const Place place;

  const int rank = static_cast<int>(cluster_rank());
  const int blocks = static_cast<int>(cluster_blocks());
  const int width = p.halves ? kBox : kGroups * kBox;
  const int begin = static_cast<int>(blockIdx.x) / blocks * width;
  const int first_row = min(rank * p.block_rows, p.rows);
  const int stage_rows = p.halves ? kGroups * kBox : kBox;
  const int pieces = (min(p.block_rows, p.rows - first_row) + stage_rows - 1) / stage_rows;

  if (threadIdx.x == 0) {
    for (int s = 0; s < Shape::kStages; ++s) {
      arrival_init(full + s);
      arrival_init(empty + s, kMultiplying / 32);
    }
    for (const CUtensorMap* map : {&p.x, &p.g}) prefetch(*map);
  }
  show_to_products();
  __syncthreads();

  if (place.group == kGroups) {
    if (place.warp > 0 || place.lane > 0) return;
    const auto load_x = [&](int piece) {
      Arrival* const arrival = full + piece % Shape::kStages;
      unsigned char* const to = ring + piece % Shape::kStages * Shape::kStage;
      const int row = first_row + piece * stage_rows;
      arrival_expect(arrival, kGroups * kBoxBytes + (p.halves ? kGroups : 1) * kNarrow<R>);
      for (int i = 0; i < kGroups; ++i) {
        load_box(shared_address(to + i * kBoxBytes), p.x, p.halves ? begin : begin + i * kBox,
                 p.halves ? row + i * kBox : row, arrival);
      }
    };
    const auto load_g = [&](int piece) {
      unsigned char* const to = ring + piece % Shape::kStages * Shape::kStage + kGroups * kBoxBytes;
      for (int i = 0; i < (p.halves ? kGroups : 1); ++i) {
        load_narrow<R>(to + i * kNarrow<R>, p.g, first_row + piece * stage_rows + i * kBox,
                       full + piece % Shape::kStages);
      }
    };
    // x is older than the kernel before this one, which has itself waited for those before it.
    for (int i = 0; i < min(Shape::kStages, pieces); ++i) load_x(i);
    wait_for_previous();
    for (int i = 0; i < min(Shape::kStages, pieces); ++i) load_g(i);
    for (int piece = Shape::kStages; piece < pieces; ++piece) {
      arrival_wait(empty + piece % Shape::kStages, static_cast<unsigned>(piece / Shape::kStages + 1) & 1U);
      load_x(piece);
      load_g(piece);
    }
    return;
  }

  wait_for_previous();
  allow_next();
  if (p.partial != nullptr) add_partials<R>(p.partial, p.ranges, p.n, p.siblings);
  float sums[R / 2] = {};
  for (int piece = 0; piece < pieces; ++piece) {
    const int stage = piece % Shape::kStages;
    arrival_wait(full + stage, static_cast<unsigned>(piece / Shape::kStages) & 1U);
    unsigned char* const boxes = ring + stage * Shape::kStage;
    const std::uint64_t x = tile_descriptor(shared_address(boxes + place.group * kBoxBytes));
    const std::uint64_t g =
        narrow_descriptor(shared_address(boxes + kGroups * kBoxBytes + (p.halves ? place.group : 0) * kNarrow<R>));
    settle(sums);
    begin_products();
#pragma unroll
    for (int k = 0; k < kBox / 16; ++k) {
      multiply_add_narrow<T, R, Along::rows>(sums, x + 128 * k, g + 32 * k, true);
    }
    close_products();
    wait_products<0>();
    settle(sums);
    if (place.lane == 0) arrive(empty + stage);
  }

  // Each block adds up a share of the columns from all groups of its cluster.
  __syncthreads();
  float* const exchange = reinterpret_cast<float*>(ring);  // [kGroups, R, kPitch]
  float* const to =
      exchange + (place.group * R + 2 * (place.lane % 4)) * Shape::kPitch + 16 * place.warp + place.lane / 4;
#pragma unroll
  for (int j = 0; j < R / 8; ++j) {
    to[8 * j * Shape::kPitch] = sums[4 * j];
    to[(8 * j + 1) * Shape::kPitch] = sums[4 * j + 1];
    to[8 * j * Shape::kPitch + 8] = sums[4 * j + 2];
    to[(8 * j + 1) * Shape::kPitch + 8] = sums[4 * j + 3];
  }
  cluster_sync();
  const int extent = min(width, p.columns - begin);
  const int share = (extent + blocks - 1) / blocks;
  const int from = min(rank * share, extent);
  const int mine = min(share, extent - from);
  for (int id = static_cast<int>(threadIdx.x); id < mine * R; id += kMultiplying) {
    const int r = id / mine;
    const int column = from + id % mine;
    const float* const here = exchange + (column / kBox * R + r) * Shape::kPitch + column % kBox;
    float sum = 0;
#pragma unroll
    for (unsigned q = 0; q < kMaxCluster; ++q) {
      if (q >= static_cast<unsigned>(blocks)) break;
      sum += *in_block(here, q);
      if (p.halves) sum += *in_block(here + R * Shape::kPitch, q);
    }
    for (int i = 0; i < p.siblings.count; ++i) {
      const Siblings::Block& block = p.siblings.blocks[i];
      if (r < block.rank_begin || r >= block.rank_end || block.da == nullptr) continue;
      float& da = block.da[(r - block.rank_begin) * block.da_stride + begin + column];
      da = (p.siblings.add ? da : 0.0F) + sum;
    }
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
