#include "ops/l2_normalize/l2_normalize.h"

#include "backend/cuda/kernels.cuh"

namespace wick::cuda {
namespace {

// A row for each warp. There is one for each sentence, so they are few: sums are in double, and rows are read twice.
constexpr int kWarps = 4;

template <class T>
struct Matrix {
  T* data;
  std::int64_t stride;
};
template <class T>
Matrix<T> matrix_of(const Tensor& t) {
  return {pointer<T>(t), t.stride(0)};
}

__device__ inline std::int64_t row_of_warp() {
  return static_cast<std::int64_t>(blockIdx.x) * kWarps + static_cast<int>(threadIdx.x) / 32;
}

__device__ inline double sum_of_warp(double value) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(0xffffffffU, value, offset);
  return value;
}

template <class T>
__global__ void __launch_bounds__(kWarps * 32)
    forward_kernel(Matrix<const T> x, Matrix<T> y, float* lengths, std::int64_t rows, std::int64_t columns) {
  wait_for_previous();
  allow_next();
  const std::int64_t row = row_of_warp();
  if (row >= rows) return;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const T* const in = x.data + row * x.stride;
  T* const out = y.data + row * y.stride;
  double squares = 0;
  for (std::int64_t i = lane; i < columns; i += 32) {
    const double v = to_float(in[i]);
    squares += v * v;
  }
  const double length = fmax(::sqrt(sum_of_warp(squares)), kSmallestLength);
  for (std::int64_t i = lane; i < columns; i += 32)
    out[i] = from_float<T>(static_cast<float>(to_float(in[i]) / length));
  if (lane == 0) lengths[row] = static_cast<float>(length);
}

template <class T>
__global__ void __launch_bounds__(kWarps * 32)
    backward_kernel(Matrix<const T> dy, Matrix<const T> x, const float* lengths, Matrix<T> dx, std::int64_t rows,
                    std::int64_t columns) {
  wait_for_previous();
  allow_next();
  const std::int64_t row = row_of_warp();
  if (row >= rows) return;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const T* const grad = dy.data + row * dy.stride;
  const T* const in = x.data + row * x.stride;
  T* const out = dx.data + row * dx.stride;
  const double length = lengths[row];
  double dot = 0;
  if (length > static_cast<float>(kSmallestLength)) {
    for (std::int64_t i = lane; i < columns; i += 32) dot += static_cast<double>(to_float(grad[i])) * to_float(in[i]);
    dot = sum_of_warp(dot) / (length * length);
  }
  for (std::int64_t i = lane; i < columns; i += 32) {
    out[i] = from_float<T>(static_cast<float>((to_float(grad[i]) - to_float(in[i]) * dot) / length));
  }
}

Declined l2_normalize_forward_cuda(const Tensor& x, const Tensor& y, const Tensor& lengths) {
  if (x.dtype() == DType::f64) return "f64";
  visit_narrow(x.dtype(), [&](auto tag) {
    using T = decltype(tag);
    const Work work{.name = "l2 normalize", .bytes = 2.0 * static_cast<double>(x.numel()) * sizeof(T)};
    launch(work, forward_kernel<T>,
           {.grid = dim3(blocks_for(x.size(0), kWarps)), .block = dim3(kWarps * 32), .overlap = true},
           matrix_of<const T>(x), matrix_of<T>(y), pointer<float>(lengths), x.size(0), x.size(1));
  });
  return nullptr;
}

Declined l2_normalize_backward_cuda(const Tensor& dy, const Tensor& x, const Tensor& lengths, const Tensor& dx) {
  if (x.dtype() == DType::f64) return "f64";
  visit_narrow(x.dtype(), [&](auto tag) {
    using T = decltype(tag);
    const Work work{.name = "l2 normalize backward", .bytes = 3.0 * static_cast<double>(x.numel()) * sizeof(T)};
    launch(work, backward_kernel<T>,
           {.grid = dim3(blocks_for(x.size(0), kWarps)), .block = dim3(kWarps * 32), .overlap = true},
           matrix_of<const T>(dy), matrix_of<const T>(x), pointer<float>(lengths), matrix_of<T>(dx), x.size(0),
           x.size(1));
  });
  return nullptr;
}

}  // namespace

void register_l2_normalize() {
  l2_normalize_forward.on(DeviceType::cuda) = l2_normalize_forward_cuda;
  l2_normalize_backward.on(DeviceType::cuda) = l2_normalize_backward_cuda;
}

}  // namespace wick::cuda
