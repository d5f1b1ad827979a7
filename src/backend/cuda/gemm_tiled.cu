#include "backend/cuda/gemm_tiled.h"

#include <type_traits>

#include "backend/cuda/kernels.cuh"

namespace wick::cuda {
namespace {

constexpr int kTile = 64;   // rows and columns of c
constexpr int kDepth = 16;  // of k at a time
constexpr int kLanes = 16;  // threads each way
constexpr int kEach = kTile / kLanes;
constexpr int kThreads = kLanes * kLanes;

template <class T>
struct Strided {
  T* data;
  std::int64_t row, column;

  __device__ T& at(std::int64_t i, std::int64_t j) const { return data[i * row + j * column]; }
};
template <class T>
Strided<T> strided(const Tensor& t) {
  return {pointer<T>(t), t.stride(0), t.stride(1)};
}

// What products of T are added up in.
template <class T>
using SumOf = std::conditional_t<std::is_same_v<T, double>, double, float>;

template <class In, class Out>
struct TiledArguments {
  Strided<const In> a, b;
  Strided<Out> c;
  const Out* bias;  // null: none
  std::int64_t m, n, k;
  SumOf<In> alpha, beta;
};

// Threads are 16 x 16, each with every 16th row and column of a tile.
template <class In, class Out>
__global__ void __launch_bounds__(kThreads) tiled_kernel(const TiledArguments<In, Out> in) {
  using Sum = SumOf<In>;
  __shared__ Sum left[kDepth][kTile + 1];
  __shared__ Sum right[kDepth][kTile + 1];
  const int thread = static_cast<int>(threadIdx.x);
  const int x = thread % kLanes;
  const int y = thread / kLanes;
  const std::int64_t first_row = static_cast<std::int64_t>(blockIdx.x) * kTile;
  const std::int64_t first_column = static_cast<std::int64_t>(blockIdx.y) * kTile;
  Sum sums[kEach][kEach] = {};
  for (std::int64_t at = 0; at < in.k; at += kDepth) {
    __syncthreads();
    for (int i = thread; i < kTile * kDepth; i += kThreads) {
      const int across = i / kDepth;
      const int depth = i % kDepth;
      const bool there = at + depth < in.k;
      const std::int64_t row = first_row + across;
      const std::int64_t column = first_column + across;
      left[depth][across] = there && row < in.m ? static_cast<Sum>(in.a.at(row, at + depth)) : Sum{0};
      right[depth][across] = there && column < in.n ? static_cast<Sum>(in.b.at(at + depth, column)) : Sum{0};
    }
    __syncthreads();
#pragma unroll
    for (int depth = 0; depth < kDepth; ++depth) {
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
#pragma unroll
        for (int j = 0; j < kEach; ++j) {
          sums[i][j] = fma(left[depth][y + kLanes * i], right[depth][x + kLanes * j], sums[i][j]);
        }
      }
    }
  }
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
#pragma unroll
    for (int j = 0; j < kEach; ++j) {
      const std::int64_t row = first_row + y + kLanes * i;
      const std::int64_t column = first_column + x + kLanes * j;
      if (row >= in.m || column >= in.n) continue;
      Sum result = in.alpha * sums[i][j];
      if (in.bias != nullptr) result += static_cast<Sum>(in.bias[column]);
      if (in.beta != 0) result = fma(in.beta, static_cast<Sum>(in.c.at(row, column)), result);
      in.c.at(row, column) = static_cast<Out>(result);
    }
  }
}

template <class In, class Out>
void run(const Tensor& a, const Tensor& b, const Tensor& c, double alpha, double beta, const Tensor& bias) {
  const TiledArguments<In, Out> in{.a = strided<const In>(a),
                                   .b = strided<const In>(b),
                                   .c = strided<Out>(c),
                                   .bias = pointer<const Out>(bias),
                                   .m = a.size(0),
                                   .n = b.size(1),
                                   .k = a.size(1),
                                   .alpha = static_cast<SumOf<In>>(alpha),
                                   .beta = static_cast<SumOf<In>>(beta)};
  const double moved = static_cast<double>(a.numel() + b.numel()) * sizeof(In);
  const Work work{.name = "gemm, plain",
                  .bytes = moved + static_cast<double>(c.numel()) * sizeof(Out) * (beta != 0 ? 2 : 1),
                  .flops = 2.0 * static_cast<double>(c.numel()) * static_cast<double>(in.k),
                  .m = in.m,
                  .n = in.n,
                  .k = in.k};
  launch(work, tiled_kernel<In, Out>,
         {.grid = dim3(blocks_for(in.m, kTile), blocks_for(in.n, kTile)), .block = dim3(kThreads)}, in);
}

// A block a row.
template <class Unit>
__global__ void __launch_bounds__(kThreads)
    find_difference(Strided<const Unit> a, Strided<const Unit> b, std::int64_t columns, int* found) {
  for (std::int64_t i = threadIdx.x; i < columns; i += kThreads) {
    if (a.at(blockIdx.x, i) != b.at(blockIdx.x, i)) *found = 1;
  }
}

}  // namespace

void gemm_tiled(const Tensor& a, const Tensor& b, const Tensor& c, double alpha, double beta, const Tensor& bias) {
  if (a.dtype() == DType::f64) return run<double, double>(a, b, c, alpha, beta, bias);
  visit_narrow(a.dtype(), [&]<class In>(In) {
    if (c.dtype() == DType::f32) {
      run<In, float>(a, b, c, alpha, beta, bias);
    } else {
      run<In, In>(a, b, c, alpha, beta, bias);
    }
  });
}

bool same_bytes(const Tensor& a, const Tensor& b) {
  const Tensor found = Tensor::full({1}, 0, DType::i32, a.device());
  const auto compare = [&]<class Unit>(Unit) {
    const Work work{.name = "comparison", .bytes = 2.0 * static_cast<double>(a.numel()) * sizeof(Unit)};
    launch(work, find_difference<Unit>, {.grid = dim3(static_cast<unsigned>(a.size(0))), .block = dim3(kThreads)},
           strided<const Unit>(a), strided<const Unit>(b), a.size(1), pointer<int>(found));
  };
  if (size_of(a.dtype()) == 4) {
    compare(std::uint32_t{});
  } else {
    compare(std::uint16_t{});
  }
  return found.to(Device::cpu()).to_vector<std::int32_t>()[0] == 0;
}

}  // namespace wick::cuda
