#include "ops/swiglu/swiglu.h"

#include <type_traits>

#include "backend/cuda/map_rows.cuh"

namespace wick::cuda {
namespace {

// The approximate exponential and division lose nothing that a 16-bit result could hold.
template <class T>
__device__ inline float sigmoid(float z) {
  if constexpr (std::is_same_v<T, float>) return 1.0F / (1.0F + expf(-z));
  return __fdividef(1.0F, 1.0F + __expf(-z));
}

template <class T>
struct Forward {
  __device__ void operator()(const float (&in)[2], float (&out)[1]) const {
    out[0] = in[0] * sigmoid<T>(in[0]) * in[1];
  }
};

// With s = sigmoid(z): dup = dy z s, dgate = dy up (s + z s (1 - s)).
template <class T>
struct Backward {
  __device__ void operator()(const float (&in)[3], float (&out)[2]) const {
    const float s = sigmoid<T>(in[1]);
    const float silu = in[1] * s;
    out[0] = in[0] * in[2] * (s + fmaf(-silu, s, silu));
    out[1] = in[0] * silu;
  }
};

Declined swiglu_forward_cuda(const Tensor& gate, const Tensor& up, const Tensor& y) {
  if (y.dtype() == DType::f64) return "f64";
  return visit_narrow(y.dtype(), [&](auto tag) {
    using T = decltype(tag);
    return map_rows<T, 2, 1>("swiglu", {&gate, &up}, {&y}, Forward<T>{});
  });
}

Declined swiglu_backward_cuda(const Tensor& dy, const Tensor& gate, const Tensor& up, const Tensor& dgate,
                              const Tensor& dup) {
  if (dy.dtype() == DType::f64) return "f64";
  return visit_narrow(dy.dtype(), [&](auto tag) {
    using T = decltype(tag);
    return map_rows<T, 3, 2>("swiglu backward", {&dy, &gate, &up}, {&dgate, &dup}, Backward<T>{});
  });
}

}  // namespace

void register_swiglu() {
  swiglu_forward.on(DeviceType::cuda) = swiglu_forward_cuda;
  swiglu_backward.on(DeviceType::cuda) = swiglu_backward_cuda;
}

}  // namespace wick::cuda
