#pragma once

// Gradients of a norm's weight and bias: sums over rows, in two stages of fixed order.

#include <algorithm>

#include "backend/cuda/rows.cuh"

namespace wick::cuda {

inline constexpr int kWays = 8;  // threads that share a column

/// Sums `values` over the block's kWays rows of threads and writes them for column `column` of `to`. Every thread of
/// the block calls it.
template <int kSize>
__device__ inline void write_sums(const float (&values)[kSize], float* to, std::int64_t column, bool inside) {
  __shared__ float shared[kWays][kSize][32];
  __syncthreads();
#pragma unroll
  for (int e = 0; e < kSize; ++e) shared[threadIdx.y][e][threadIdx.x] = values[e];
  __syncthreads();
  for (unsigned e = threadIdx.y; e < kSize; e += kWays) {
    float total = 0;
#pragma unroll
    for (int way = 0; way < kWays; ++way) total += shared[way][e][threadIdx.x];
    if (inside) to[column + e] = total;
  }
}

/// partials [chunks, width]: the sums over a chunk of rows of dy x̂, x̂ = (x - mean) rstd, and for kBias, in the second
/// half of the width, of dy.
template <class T, int kSize, bool kBias, class X>
__global__ void __launch_bounds__(32 * kWays)
    norm_param_partials(Rows<const T> dy, X x, const float* mean, const float* rstd, float* partials, std::int64_t rows,
                        std::int64_t columns, std::int64_t rows_per_chunk) {
  wait_for_previous();
  allow_next();
  const std::int64_t column = (static_cast<std::int64_t>(blockIdx.x) * 32 + threadIdx.x) * kSize;
  const bool inside = column < columns;
  const std::int64_t begin = blockIdx.y * rows_per_chunk;
  const std::int64_t end = inside ? ::min(rows, begin + rows_per_chunk) : begin;
  float dweight[kSize] = {};
  float dbias[kSize] = {};
#pragma unroll 4
  for (std::int64_t row = begin + threadIdx.y; row < end; row += kWays) {
    const auto g = load_pack<T, kSize>(dy[row] + column);
    const auto in = load_pack<T, kSize>(x[row] + column);
    const float centre = kBias ? mean[row] : 0.0F;
    const float scale = rstd[row];
#pragma unroll
    for (int e = 0; e < kSize; ++e) {
      dweight[e] += to_float(g[e]) * ((to_float(in[e]) - centre) * scale);
      if constexpr (kBias) dbias[e] += to_float(g[e]);
    }
  }
  float* to = partials + blockIdx.y * (kBias ? 2 : 1) * columns;
  write_sums(dweight, to, column, inside);
  if constexpr (kBias) write_sums(dbias, to + columns, column, inside);
}

/// sums [width] = the sums of partials [chunks, width] over the chunks; zeros where there are none.
template <int kThreadsPerColumn>
__global__ void __launch_bounds__(32 * kThreadsPerColumn)
    sum_chunks(const float* partials, float* sums, std::int64_t chunks, std::int64_t width) {
  wait_for_previous();
  allow_next();
  const std::int64_t column = static_cast<std::int64_t>(blockIdx.x) * 32 + threadIdx.x;
  const bool inside = column < width;
  float total[1] = {};
  if (inside) {
#pragma unroll 4
    for (std::int64_t chunk = threadIdx.y; chunk < chunks; chunk += kThreadsPerColumn) {
      total[0] += partials[chunk * width + column];
    }
  }
  write_sums(total, sums, column, inside);
}

/// dweight, and for kBias dbias behind it, f32 [columns] each, from the inputs of the backward; x as its rows too.
template <class T, bool kBias, class X>
void norm_param_gradients(const char* name, const Tensor& dy, const Tensor& x, const X& x_rows, const float* mean,
                          const float* rstd, float* sums) {
  const std::int64_t rows = dy.size(0);
  const std::int64_t columns = dy.size(1);
  if (columns == 0) return;
  const std::int64_t width = (kBias ? 2 : 1) * columns;
  const bool packed = packs(dy) && packs(x) && columns % kPackSize<T> == 0;
  const unsigned across = blocks_for(columns, 32 * (packed ? kPackSize<T> : 1));
  // Enough blocks for the device, but 32 rows or more in a chunk.
  const std::int64_t wanted = std::max(blocks_for(4 * info(x.device().index).multiprocessors, across), 1U);
  const std::int64_t chunks = std::min<std::int64_t>(wanted, (rows + 31) / 32);
  const Tensor partials = Tensor::empty({chunks, width}, DType::f32, x.device());
  const dim3 block(32, kWays);
  if (chunks > 0) {
    const auto bytes = 2.0 * static_cast<double>(rows * columns) * sizeof(T);
    const auto run = [&](auto* kernel) {
      launch({name, bytes}, kernel,
             {.grid = dim3(across, static_cast<unsigned>(chunks)), .block = block, .overlap = true},
             rows_of<const T>(dy), x_rows, mean, rstd, pointer<float>(partials), rows, columns,
             (rows + chunks - 1) / chunks);
    };
    if (packed) {
      run(norm_param_partials<T, kPackSize<T>, kBias, X>);
    } else {
      run(norm_param_partials<T, 1, kBias, X>);
    }
  }
  launch({name, 4.0 * static_cast<double>(chunks * width)}, sum_chunks<kWays>,
         {.grid = dim3(blocks_for(width, 32)), .block = block, .overlap = true}, pointer<float>(partials), sums, chunks,
         width);
}

}  // namespace wick::cuda
