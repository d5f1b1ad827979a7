#pragma once

// Products of a tall matrix [tokens, columns] with a rank: the matrix is read once, in tiles of 128 columns that pass
// through a ring in shared memory; whatever has the rank as an extent stays in registers or shared memory.
//
//   project: out [tokens, R] = x f, f = Aᵀ [columns, R] or sB [columns, R]; and in the same pass partial sums of
//            outer [columns, R] = xᵀ h (the gradient of B). A cluster of blocks has a range of rows, each of its blocks
//            some of the columns: out is added up over the cluster, outer over the ranges by whoever comes next.
//   outer:   outerᵀ [R, columns] = gᵀ x (the gradient of A). A cluster has 128 columns, each of its blocks some of the
//            rows, so the sum is complete within the cluster.
//
// All sums are made in a fixed order.

#include "backend/cuda/cluster.cuh"
#include "backend/cuda/mma.cuh"

namespace wick::cuda::skinny {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kTile = 16 * kWarps;  // columns of a tile: outer's 16 for each warp
constexpr int kSlab = 16 * kWarps;  // rows of project's tiles: out's 16 for each warp
constexpr int kOuterRows = 64;      // rows of outer's tiles
constexpr int kCluster = kMaxCluster;
constexpr int kMaxRank = 64;
constexpr int kMaxBlocks = 8;

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
  const T* x;       // [rows, columns]
  const T* factor;  // A [R, columns], or with the outer product sB [columns, R]
  T* out;           // [rows, R]
  std::int64_t x_stride, factor_stride, out_stride;
  int rows, columns;
  int block_columns;  // of each block of a cluster, a multiple of 16
  int slabs;          // of each range of rows
  const T* h;         // [rows, R]
  std::int64_t h_stride;
  float* partial;  // [ranges, columns, R]; only what belongs to a sibling is written
  Siblings siblings;
};

template <class T>
struct Outer {
  const T* x;  // [rows, columns]
  const T* g;  // [rows, R]
  std::int64_t x_stride, g_stride;
  int rows, columns;
  int cluster_columns;  // at most kTile
  int block_rows;
  const float* partial;  // project's, [ranges, n, R]; null: no gradient of B is wanted
  int ranges, n;
  Siblings siblings;
};

// Tiles are rows of 16 chunks of 8 elements, permuted so that the same chunk of 8 rows lies in 8 different banks.
__device__ inline int tile_offset(int row, int chunk) { return (row * (kTile / 8) + (chunk ^ (row & 7))) * 8; }
// Matrices [rows, R] have rows of an odd number of chunks, to the same end.
template <int R>
constexpr int kPitch = R + 8;

/// Starts copying kRows rows and kTile columns of a matrix; zeros beyond `rows` and `columns`.
template <int kRows, class T>
__device__ inline void start_tile(T* tile, const T* from, std::int64_t stride, int row, int rows, int column,
                                  int columns) {
  constexpr int kStep = kThreads / (kTile / 8);  // rows of one copy by all threads: 16, so all have the same swizzle
  static_assert(kRows % kStep == 0 && kStep % 8 == 0);
  const int r = static_cast<int>(threadIdx.x) / (kTile / 8);
  const int chunk = static_cast<int>(threadIdx.x) % (kTile / 8);
  T* const to = tile + tile_offset(r, chunk);
  const T* source = from + (row + r) * stride + column + chunk * 8;
  const int left = column + chunk * 8 < columns ? rows - row - r : 0;
#pragma unroll
  for (int i = 0; i < kRows; i += kStep) {
    copy_async16(to + i * kTile, source, i < left ? 16 : 0);
    source += kStep * stride;
  }
}

/// Starts copying kRows rows of a matrix [rows, R]; zeros beyond `rows`.
template <int kRows, int R, class T>
__device__ inline void start_narrow(T* to, const T* from, std::int64_t stride, int row, int rows) {
  constexpr int kCopies = kRows * (R / 8);
#pragma unroll
  for (int i = 0; i < kCopies; i += kThreads) {
    const int id = i + static_cast<int>(threadIdx.x);
    if (kCopies % kThreads != 0 && id >= kCopies) break;
    const int r = id / (R / 8);
    const int chunk = id % (R / 8);
    copy_async16(to + r * kPitch<R> + chunk * 8, from + (row + r) * stride + chunk * 8, row + r < rows ? 16 : 0);
  }
}

// Fragments of a product's left side [16, 16] and right side [16, 16] (two of 8 columns).

/// Rows `row` on, columns 16 `step` on of a tile.
template <class T>
__device__ inline void left_rows(unsigned (&a)[4], const T* tile, int row, int step, int lane) {
  load_matrices(a, tile + tile_offset(row + lane % 16, 2 * step + lane / 16));
}
/// The transpose of rows 16 `step` on, columns 8 `chunk` on of a tile.
template <class T>
__device__ inline void left_columns(unsigned (&a)[4], const T* tile, int chunk, int step, int lane) {
  load_matrices_transposed(a, tile + tile_offset(16 * step + lane % 8 + lane / 16 * 8, chunk + lane / 8 % 2));
}
/// Rows 16 `step` on, columns 16 `pair` on of a matrix [rows, R].
template <int R, class T>
__device__ inline void right_narrow(unsigned (&b)[4], const T* matrix, int step, int pair, int lane) {
  load_matrices_transposed(b, matrix + (16 * step + lane % 16) * kPitch<R> + 16 * pair + lane / 16 * 8);
}
/// The transpose of rows 16 `pair` on, columns 16 `step` on of a tile.
template <class T>
__device__ inline void right_tile(unsigned (&b)[4], const T* tile, int step, int pair, int lane) {
  load_matrices(b, tile + tile_offset(16 * pair + lane / 16 * 8 + lane % 8, 2 * step + lane / 8 % 2));
}

template <int R, bool kOuter>
struct ProjectShape {
  // The widest ranges that leave registers for out's sums, and the deepest rings that fit in a block's shared memory.
  static constexpr int kSlabs = R == 16 ? 6 : R == 32 ? 5 : 4;
  static constexpr int kStages = kOuter ? (R == 16 ? 4 : 3) : R <= 32 ? 5 : 4;
  static constexpr int kFactor = kOuter ? kTile * kPitch<R> : R * kTile;  // elements, as is all that follows
  static constexpr int kH = kOuter ? kSlab * kPitch<R> : 0;               // of a slab
  static constexpr int kElements = kStages * (kSlab * kTile + kFactor) + kSlabs * kH;
  static constexpr bool kKeepFactor = R <= 32;  // a tile's factor in registers, for all slabs
  static_assert(kElements * 2 >= kSlabs * kSlab * R * 4, "the exchange takes the place of all this");
  static_assert(kElements * 2 <= 227 * 1024);
};

/// The part of `outer` that one tile of columns and one range of rows give, from the warp's 16 columns.
template <int R>
__device__ inline void store_partial(const float (&outer)[R / 8][4], float* partial, int column, int end, int lane,
                                     const Siblings& siblings) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int n = column + lane / 4 + 8 * half;
    if (n >= end) continue;
    int from = 0;
    int to = 0;
    for (int i = 0; i < siblings.count; ++i) {
      const Siblings::Block& block = siblings.blocks[i];
      if (n < block.out_begin || n >= block.out_end || block.db == nullptr) continue;
      from = block.rank_begin;
      to = block.rank_end;
    }
#pragma unroll
    for (int j = 0; j < R / 8; ++j) {
      const int r = 8 * j + 2 * (lane % 4);
      if (r + 1 < from || r >= to) continue;
      const float2 pair = {outer[j][2 * half], outer[j][2 * half + 1]};
      *reinterpret_cast<float2*>(partial + static_cast<std::int64_t>(n) * R + r) = pair;
    }
  }
}

/// Adds up the partial sums of the gradients of B, over the whole grid.
template <int R>
__device__ inline void add_partials(const float* partial, int ranges, int n, const Siblings& siblings) {
  const std::int64_t count = static_cast<std::int64_t>(n) * R;
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * kThreads;
  for (std::int64_t id = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x; id < count; id += step) {
    const int row = static_cast<int>(id / R);
    const int r = static_cast<int>(id % R);
    for (int i = 0; i < siblings.count; ++i) {
      const Siblings::Block& block = siblings.blocks[i];
      if (row < block.out_begin || row >= block.out_end || block.db == nullptr) continue;
      if (r < block.rank_begin || r >= block.rank_end) continue;
      float sum = 0;
#pragma unroll 8
      for (int range = 0; range < ranges; ++range) sum += partial[range * count + id];
      float& db = block.db[(row - block.out_begin) * block.db_stride + r - block.rank_begin];
      db = (siblings.add ? db : 0.0F) + block.scale * sum;
    }
  }
}

template <class T, int R, bool kOuter>
__global__ __launch_bounds__(kThreads, 1) void project_kernel(const __grid_constant__ Project<T> p) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  using Shape = ProjectShape<R, kOuter>;
  constexpr int kSteps = kTile / 16;
  constexpr int kPairs = R / 16;
  T* const ring = reinterpret_cast<T*>(dynamic_shared());
  T* const factors = ring + Shape::kStages * kSlab * kTile;
  T* const h = factors + Shape::kStages * Shape::kFactor;
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int warp = static_cast<int>(threadIdx.x / 32);

  const int rank = static_cast<int>(cluster_rank());
  const int blocks = static_cast<int>(cluster_blocks());
  const int range = static_cast<int>(blockIdx.x) / blocks;
  const int first_row = range * p.slabs * kSlab;
  const int slabs = min(p.slabs, (p.rows - first_row + kSlab - 1) / kSlab);
  const int begin = min(rank * p.block_columns, p.columns);
  const int end = min(begin + p.block_columns, p.columns);
  const int tiles = (end - begin + kTile - 1) / kTile;

  // The ring takes the tiles of all slabs of the first 128 columns, then those of the next.
  int next_tile = 0;
  int next_slab = 0;
  int next_slot = 0;
  const auto start_next = [&] {
    if (next_tile < tiles) {
      const int column = begin + next_tile * kTile;
      start_tile<kSlab>(ring + next_slot * (kSlab * kTile), p.x, p.x_stride, first_row + next_slab * kSlab, p.rows,
                        column, end);
      if (next_slab == 0) {
        T* const factor = factors + next_tile % Shape::kStages * Shape::kFactor;
        if constexpr (kOuter) {
          start_narrow<kTile, R>(factor, p.factor, p.factor_stride, column, end);
        } else {
          start_tile<R>(factor, p.factor, p.factor_stride, 0, R, column, end);
        }
      }
      if (++next_slab == slabs) {
        next_slab = 0;
        ++next_tile;
      }
      if (++next_slot == Shape::kStages) next_slot = 0;
    }
    close_copies();
  };

  wait_for_previous();
  allow_next();
  if constexpr (kOuter) {
    for (int s = 0; s < slabs; ++s) {
      start_narrow<kSlab, R>(h + s * Shape::kH, p.h, p.h_stride, first_row + s * kSlab, p.rows);
    }
  }
  for (int i = 0; i < Shape::kStages - 1; ++i) start_next();

  float sums[Shape::kSlabs][R / 8][4] = {};
  int slot = 0;
  for (int tile = 0; tile < tiles; ++tile) {
    const T* const factor = factors + tile % Shape::kStages * Shape::kFactor;
    unsigned kept[Shape::kKeepFactor ? kSteps : 1][kPairs][4];
    float outer[R / 8][4] = {};
#pragma unroll
    for (int s = 0; s < Shape::kSlabs; ++s) {
      if (s >= slabs) break;
      wait_copies<Shape::kStages - 2>();
      __syncthreads();
      start_next();  // into the slot that every warp has left
      const T* const x = ring + slot * (kSlab * kTile);
      if (++slot == Shape::kStages) slot = 0;
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
        unsigned a[4];
        left_rows(a, x, 16 * warp, step, lane);
#pragma unroll
        for (int pair = 0; pair < kPairs; ++pair) {
          unsigned(&b)[4] = kept[Shape::kKeepFactor ? step : 0][pair];
          if (!Shape::kKeepFactor || s == 0) {
            if constexpr (kOuter) {
              right_narrow<R>(b, factor, step, pair, lane);
            } else {
              right_tile(b, factor, step, pair, lane);
            }
          }
          multiply_add<T>(sums[s][2 * pair], a, b[0], b[1]);
          multiply_add<T>(sums[s][2 * pair + 1], a, b[2], b[3]);
        }
      }
      if constexpr (kOuter) {
#pragma unroll
        for (int step = 0; step < kSteps; ++step) {
          unsigned a[4];
          left_columns(a, x, 2 * warp, step, lane);
#pragma unroll
          for (int pair = 0; pair < kPairs; ++pair) {
            unsigned b[4];
            right_narrow<R>(b, h + s * Shape::kH, step, pair, lane);
            multiply_add<T>(outer[2 * pair], a, b[0], b[1]);
            multiply_add<T>(outer[2 * pair + 1], a, b[2], b[3]);
          }
        }
      }
    }
    if constexpr (kOuter) {
      store_partial<R>(outer, p.partial + static_cast<std::int64_t>(range) * p.columns * R,
                       begin + tile * kTile + 16 * warp, end, lane, p.siblings);
    }
  }

  // Each block adds up a share of the rows from all blocks of its cluster.
  wait_copies<0>();
  __syncthreads();
  float* const exchange = reinterpret_cast<float*>(ring);  // [slabs * kSlab, R]
#pragma unroll
  for (int s = 0; s < Shape::kSlabs; ++s) {
    if (s >= slabs) break;
#pragma unroll
    for (int j = 0; j < R / 8; ++j) {
      float* const to = exchange + (s * kSlab + 16 * warp + lane / 4) * R + 8 * j + 2 * (lane % 4);
      *reinterpret_cast<float2*>(to) = {sums[s][j][0], sums[s][j][1]};
      *reinterpret_cast<float2*>(to + 8 * R) = {sums[s][j][2], sums[s][j][3]};
    }
  }
  cluster_sync();
  const int rows = min(slabs * kSlab, p.rows - first_row);
  const int share = (rows + blocks - 1) / blocks;
  const int from = min(rank * share, rows);
  const int mine = min(share, rows - from);
  for (int id = static_cast<int>(threadIdx.x); id < mine * (R / 4); id += kThreads) {
    const int row = from + id / (R / 4);
    const int r = id % (R / 4) * 4;
    const float4* const here = reinterpret_cast<const float4*>(exchange + row * R + r);
    float4 sum = {};
#pragma unroll
    for (int q = 0; q < kCluster; ++q) {
      if (q >= blocks) break;
      const float4 part = *in_block(here, static_cast<unsigned>(q));
      sum.x += part.x;
      sum.y += part.y;
      sum.z += part.z;
      sum.w += part.w;
    }
    Pack<T, 4> pack;
    pack[0] = from_float<T>(sum.x);
    pack[1] = from_float<T>(sum.y);
    pack[2] = from_float<T>(sum.z);
    pack[3] = from_float<T>(sum.w);
    store_pack(p.out + (first_row + row) * p.out_stride + r, pack);
  }
  cluster_sync();  // nobody leaves while its shared memory is read
#endif
}

template <int R>
struct OuterShape {
  static constexpr int kStages = R <= 32 ? 5 : 4;
  static constexpr int kG = kOuterRows * kPitch<R>;  // elements of a stage
  static constexpr int kElements = kStages * (kOuterRows * kTile + kG);
  static constexpr int kSumPitch = kTile + 4;  // floats: 8 columns of 4 pairs of ranks lie in 32 banks
  static_assert(kElements * 2 >= R * kSumPitch * 4, "the exchange takes the place of all this");
  static_assert(2 * (kElements * 2 + 1024) <= 228 * 1024, "two blocks on a multiprocessor");
};

template <class T, int R>
__global__ __launch_bounds__(kThreads, 2) void outer_kernel(const __grid_constant__ Outer<T> p) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  using Shape = OuterShape<R>;
  constexpr int kTileElements = kOuterRows * kTile;
  T* const ring = reinterpret_cast<T*>(dynamic_shared());
  T* const gs = ring + Shape::kStages * kTileElements;
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int warp = static_cast<int>(threadIdx.x / 32);

  const int rank = static_cast<int>(cluster_rank());
  const int blocks = static_cast<int>(cluster_blocks());
  const int begin = static_cast<int>(blockIdx.x) / blocks * p.cluster_columns;
  const int end = min(begin + p.cluster_columns, p.columns);
  const int first_row = min(rank * p.block_rows, p.rows);
  const int last_row = min(first_row + p.block_rows, p.rows);
  const int stages = (last_row - first_row + kOuterRows - 1) / kOuterRows;

  const auto start_x = [&](int stage) {
    start_tile<kOuterRows>(ring + stage % Shape::kStages * kTileElements, p.x, p.x_stride,
                           first_row + stage * kOuterRows, last_row, begin, end);
  };
  const auto start_g = [&](int stage) {
    start_narrow<kOuterRows, R>(gs + stage % Shape::kStages * Shape::kG, p.g, p.g_stride,
                                first_row + stage * kOuterRows, last_row);
  };
  // x is older than the kernel before this one, which has itself waited for those before it.
  for (int i = 0; i < min(Shape::kStages - 1, stages); ++i) start_x(i);
  wait_for_previous();
  allow_next();
  for (int i = 0; i < Shape::kStages - 1; ++i) {
    if (i < stages) start_g(i);
    close_copies();
  }
  if (p.partial != nullptr) add_partials<R>(p.partial, p.ranges, p.n, p.siblings);

  float sums[R / 8][4] = {};
  for (int stage = 0; stage < stages; ++stage) {
    wait_copies<Shape::kStages - 2>();
    __syncthreads();
    if (const int next = stage + Shape::kStages - 1; next < stages) {
      start_x(next);
      start_g(next);
    }
    close_copies();
    if (begin + 16 * warp >= end) continue;
    const T* const x = ring + stage % Shape::kStages * kTileElements;
    const T* const g = gs + stage % Shape::kStages * Shape::kG;
#pragma unroll
    for (int step = 0; step < kOuterRows / 16; ++step) {
      unsigned a[4];
      left_columns(a, x, 2 * warp, step, lane);
#pragma unroll
      for (int pair = 0; pair < R / 16; ++pair) {
        unsigned b[4];
        right_narrow<R>(b, g, step, pair, lane);
        multiply_add<T>(sums[2 * pair], a, b[0], b[1]);
        multiply_add<T>(sums[2 * pair + 1], a, b[2], b[3]);
      }
    }
  }

  // Each block adds up a share of the columns from all blocks of its cluster.
  wait_copies<0>();
  __syncthreads();
  float* const exchange = reinterpret_cast<float*>(ring);  // [R, kSumPitch]
#pragma unroll
  for (int j = 0; j < R / 8; ++j) {
    float* const to = exchange + (8 * j + 2 * (lane % 4)) * Shape::kSumPitch + 16 * warp + lane / 4;
    to[0] = sums[j][0];
    to[Shape::kSumPitch] = sums[j][1];
    to[8] = sums[j][2];
    to[Shape::kSumPitch + 8] = sums[j][3];
  }
  cluster_sync();
  const int share = (end - begin + blocks - 1) / blocks;
  const int from = min(rank * share, end - begin);
  const int mine = min(share, end - begin - from);
  for (int id = static_cast<int>(threadIdx.x); id < mine * R; id += kThreads) {
    const int r = id / mine;
    const int column = from + id % mine;
    float sum = 0;
#pragma unroll
    for (int q = 0; q < kCluster; ++q) {
      if (q >= blocks) break;
      sum += *in_block(exchange + r * Shape::kSumPitch + column, static_cast<unsigned>(q));
    }
    for (int i = 0; i < p.siblings.count; ++i) {
      const Siblings::Block& block = p.siblings.blocks[i];
      if (r < block.rank_begin || r >= block.rank_end || block.da == nullptr) continue;
      float& da = block.da[(r - block.rank_begin) * block.da_stride + begin + column];
      da = (p.siblings.add ? da : 0.0F) + sum;
    }
  }
  cluster_sync();  // nobody leaves while its shared memory is read
#endif
}

/// add_partials() by itself, where no gradient of A is wanted.
template <int R>
__global__ __launch_bounds__(kThreads) void add_partials_kernel(const float* partial, int ranges, int n,
                                                                const __grid_constant__ Siblings siblings) {
  wait_for_previous();
  allow_next();
  add_partials<R>(partial, ranges, n, siblings);
}

}  // namespace wick::cuda::skinny
