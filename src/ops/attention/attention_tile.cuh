#pragma once

// Tiles of 16-bit rows in shared memory and products of them on tensor cores. A tile is [rows, kDim], kDim 64 or more;
// chunk c of 16 bytes of row r lies at c ^ (r % 8), so that eight rows of one column of chunks lie in eight different groups
// of banks. What a row lacks to kDim is zeros. Tiles start on 1024 bytes.

#include "ops/attention/attention_cuda.cuh"
#include "ops/attention/attention_mma.cuh"

namespace wick::cuda {

inline constexpr int kChunk = 8;  // elements of 16 bytes

template <int kDim, class T>
__device__ inline T* chunk_at(T* tile, int row, int chunk) {
  return tile + row * kDim + ((chunk ^ (row & 7)) * kChunk);
}

/// Starts to copy `count` rows of `head_dim` elements to a tile of kRows; zeros to what is left of it.
template <int kDim, int kRows, int kThreads, class T>
__device__ inline void copy_rows(T* tile, const T* from, std::int64_t row_stride, int count, int head_dim,
                                 bool vectors) {
  constexpr int kChunks = kDim / kChunk;
  constexpr int kStepRows = kThreads / kChunks;
  static_assert(kThreads % kChunks == 0 && kRows % kStepRows == 0);
  const int chunk = static_cast<int>(threadIdx.x) % kChunks;
  const int first = static_cast<int>(threadIdx.x) / kChunks;
  const int elements = ::min(::max(head_dim - chunk * kChunk, 0), kChunk);
  const int bytes = elements * static_cast<int>(sizeof(T));
  const T* source = from + first * row_stride + chunk * kChunk;
  if (vectors && count >= kRows) {
#pragma unroll
    for (int step = 0; step < kRows / kStepRows; ++step) {
      copy_async16(shared_address(chunk_at<kDim>(tile, first + step * kStepRows, chunk)), source, bytes);
      source += kStepRows * row_stride;
    }
    return;
  }
#pragma unroll 1
  for (int row = first; row < kRows; row += kStepRows) {
    T* to = chunk_at<kDim>(tile, row, chunk);
    if (vectors) {
      copy_async16(shared_address(to), row < count ? source : from, row < count ? bytes : 0);
    } else {
      Pack<T> pack;
#pragma unroll
      for (int e = 0; e < kChunk; ++e) pack[e] = row < count && e < elements ? source[e] : from_float<T>(0.0F);
      store_pack(to, pack);
    }
    source += kStepRows * row_stride;
  }
}

/// The other way, of rows [first, first + kRows) of the tile and by one warp: the first `count` of them are written.
template <int kDim, int kRows, class T>
__device__ inline void store_rows(const T* tile, int first, T* to, std::int64_t row_stride, int count, int head_dim,
                                  bool vectors) {
  constexpr int kChunks = kDim / kChunk;
  for (int i = static_cast<int>(threadIdx.x) % 32; i < kRows * kChunks; i += 32) {
    const int row = i / kChunks;
    const int chunk = i % kChunks;
    const int elements = row < count ? ::min(head_dim - chunk * kChunk, kChunk) : 0;
    if (elements <= 0) continue;
    const Pack<T> pack = load_pack(chunk_at<kDim>(tile, first + row, chunk));
    T* target = to + row * row_stride + chunk * kChunk;
    if (vectors && elements == kChunk) {
      store_pack(target, pack);
    } else {
#pragma unroll
      for (int e = 0; e < kChunk; ++e) {
        if (e < elements) target[e] = pack[e];
      }
    }
  }
}

/// Accumulators of a warp: kAtoms blocks of 16 rows by kColumns. Of block a lane i has rows 16 a + i / 4 + 8 h, columns
/// 8 n + 2 (i % 4) + e in [a][n][2 h + e].
template <int kAtoms, int kColumns>
using Accumulators = float[kAtoms][kColumns / 8][4];

/// f(atom, half, row of the warp's rows) for each of a lane's rows.
template <int kAtoms, class F>
__device__ inline void each_row(const F& f) {
  const int lane_row = static_cast<int>(threadIdx.x) % 32 / 4;
#pragma unroll
  for (int a = 0; a < kAtoms; ++a) {
#pragma unroll
    for (int h = 0; h < 2; ++h) f(a, h, 16 * a + 8 * h + lane_row);
  }
}
/// The column of a lane's element [..][n][2 h + e].
__device__ inline int lane_column(int n, int e) { return 8 * n + 2 * (static_cast<int>(threadIdx.x) % 4) + e; }

/// Stores accumulators times factor(atom, half) to the warp's rows of a tile, from row `first` on.
template <int kDim, int kAtoms, class T, class Factor>
__device__ inline void stage_rows(T* tile, int first, const Accumulators<kAtoms, kDim>& c, const Factor& factor) {
  const int pair = 2 * (static_cast<int>(threadIdx.x) % 4);
  each_row<kAtoms>([&](int a, int h, int row) {
    const float by = factor(a, h);
#pragma unroll
    for (int n = 0; n < kDim / 8; ++n) {
      *reinterpret_cast<unsigned*>(chunk_at<kDim>(tile, first + row, n) + pair) =
          pack_pair<T>(c[a][n][2 * h] * by, c[a][n][2 * h + 1] * by);
    }
  });
}

template <int kAtoms, int kColumns>
__device__ inline void clear(Accumulators<kAtoms, kColumns>& c) {
#pragma unroll
  for (int a = 0; a < kAtoms; ++a) {
#pragma unroll
    for (int n = 0; n < kColumns / 8; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) c[a][n][e] = 0.0F;
    }
  }
}

/// Where a lane reads fragments of 16 rows by 16 columns, the first of them at row `row`: as the left operand of a
/// product or, transposed, as the right one. next_fragment() is those of the columns from 16 k on; 16 rows further down
/// they are 16 * kDim elements away.
template <int kDim, class T>
__device__ inline unsigned left_fragment(const T* tile, int row) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  return shared_address(chunk_at<kDim>(tile, row + lane % 16, lane / 16));
}
/// The same where the rows are the columns of the right operand.
template <int kDim, class T>
__device__ inline unsigned right_fragment(const T* tile, int row) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  return shared_address(chunk_at<kDim>(tile, row + lane % 8 + lane / 16 * 8, lane / 8 % 2));
}
__device__ inline unsigned next_fragment(unsigned fragment, int k) { return fragment ^ static_cast<unsigned>(32 * k); }

/// c = a bᵀ over kDim of two tiles, from the rows of a left and of a right fragment on.
template <class T, int kDim, int kColumns, int kAtoms>
__device__ inline void multiply_rows(Accumulators<kAtoms, kColumns>& c, unsigned a, unsigned b) {
  constexpr unsigned kBlock = 16 * kDim * sizeof(T);
  clear<kAtoms, kColumns>(c);
#pragma unroll
  for (int k = 0; k < kDim / 16; ++k) {
    unsigned left[kAtoms][4];
#pragma unroll
    for (int m = 0; m < kAtoms; ++m) load_matrices(left[m], next_fragment(a, k) + m * kBlock);
#pragma unroll
    for (int n = 0; n < kColumns / 16; ++n) {
      unsigned right[4];
      load_matrices(right, next_fragment(b, k) + n * kBlock);
#pragma unroll
      for (int m = 0; m < kAtoms; ++m) {
        multiply_add<T>(c[m][2 * n], left[m], right[0], right[1]);
        multiply_add<T>(c[m][2 * n + 1], left[m], right[2], right[3]);
      }
    }
  }
}

/// c += w b: accumulators, rounded to T, by the rows of a tile from those of a left fragment on.
template <class T, int kDim, int kColumns, int kAtoms>
__device__ inline void add_product(Accumulators<kAtoms, kDim>& c, const Accumulators<kAtoms, kColumns>& w, unsigned b) {
  constexpr unsigned kBlock = 16 * kDim * sizeof(T);
#pragma unroll
  for (int k = 0; k < kColumns / 16; ++k) {
    unsigned left[kAtoms][4];
#pragma unroll
    for (int m = 0; m < kAtoms; ++m) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        left[m][i] = pack_pair<T>(w[m][2 * k + i / 2][2 * (i % 2)], w[m][2 * k + i / 2][2 * (i % 2) + 1]);
      }
    }
#pragma unroll
    for (int n = 0; n < kDim / 16; ++n) {
      unsigned right[4];
      load_matrices_transposed(right, next_fragment(b, n) + k * kBlock);
#pragma unroll
      for (int m = 0; m < kAtoms; ++m) {
        multiply_add<T>(c[m][2 * n], left[m], right[0], right[1]);
        multiply_add<T>(c[m][2 * n + 1], left[m], right[2], right[3]);
      }
    }
  }
}

}  // namespace wick::cuda
