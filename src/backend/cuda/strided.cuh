#pragma once

#include <cstdint>

#include "backend/cuda/kernels.cuh"

namespace wick::cuda {

constexpr int kMaxDims = 8;

/// N tensors of one shape, walked together in any strides: dimensions of extent 1 are gone, neighbours that step alike
/// are merged.
template <int N>
struct Walk {
  std::int64_t count = 1;
  int dims = 0;
  std::int64_t extent[kMaxDims];
  std::int64_t stride[N][kMaxDims];

  __device__ void offsets(std::int64_t index, std::int64_t (&at)[N]) const {
#pragma unroll
    for (int n = 0; n < N; ++n) at[n] = 0;
#pragma unroll 1
    for (int d = dims - 1; d >= 0; --d) {
      std::int64_t here;
      if (index <= 0xffffffffLL && extent[d] <= 0xffffffffLL) {  // 64-bit division is slow
        const auto small = static_cast<std::uint32_t>(index);
        const auto by = static_cast<std::uint32_t>(extent[d]);
        here = small % by;
        index = small / by;
      } else {
        here = index % extent[d];
        index /= extent[d];
      }
#pragma unroll
      for (int n = 0; n < N; ++n) at[n] += here * stride[n][d];
    }
  }
};

template <int N>
Walk<N> walk(const Tensor* const (&tensors)[N]) {
  Walk<N> result;
  const Shape& shape = tensors[0]->shape();
  for (int i = 0; i < shape.rank(); ++i) {
    result.count *= shape[i];
    if (shape[i] == 1) continue;
    bool merges = result.dims > 0;
    for (int n = 0; n < N && merges; ++n) {
      merges = result.stride[n][result.dims - 1] == tensors[n]->stride(i) * shape[i];
    }
    const int d = merges ? result.dims - 1 : result.dims++;
    result.extent[d] = merges ? result.extent[d] * shape[i] : shape[i];
    for (int n = 0; n < N; ++n) result.stride[n][d] = tensors[n]->stride(i);
  }
  return result;
}

}  // namespace wick::cuda
