#include "ops/gelu/gelu.h"

#include <type_traits>

#include "backend/cuda/map_rows.cuh"

namespace wick::cuda {
namespace {

// The approximate exponential and division lose nothing that a 16-bit result could hold.
template <class T>
__device__ inline float exponential(float x) {
  return std::is_same_v<T, float> ? expf(x) : __expf(x);
}
template <class T>
__device__ inline float reciprocal(float x) {
  return std::is_same_v<T, float> ? 1.0F / x : __fdividef(1.0F, x);
}
template <class T>
__device__ inline float sigmoid(float x) {
  return reciprocal<T>(1.0F + exponential<T>(-x));
}

struct Normal {
  float cumulative;  // Phi(x)
  float density;     // phi(x)
};
// As normal() in backend/cpu/math-inl.h, with the same fit of the tail: small values of Phi are accurate relative to
// themselves, where 1 + erf would cancel.
template <class T>
__device__ inline Normal normal(float x) {
  const float a = fabsf(x);
  const float square = a * a;
  float e = exponential<T>(-0.5F * square);
  if constexpr (std::is_same_v<T, float>) {  // what rounding took from a² would be amplified by the exponential
    const float lost = a < 15.0F ? fmaf(a, a, -square) : 0.0F;
    e = fmaf(e, -0.5F * lost, e);
  }
  const float t = reciprocal<T>(a + 3.5F);
  const float q = fmaf(-7.0F, t, 1.0F);
  float p = 0.00011068795F;
  p = fmaf(p, q, 0.000421895907F);
  p = fmaf(p, q, -0.000494942768F);
  p = fmaf(p, q, -0.00317530916F);
  p = fmaf(p, q, 0.0064931158F);
  p = fmaf(p, q, 0.0174063779F);
  p = fmaf(p, q, -0.116053037F);
  p = fmaf(p, q, 0.315425038F);
  p = fmaf(p, q, -0.565561771F);
  p = fmaf(p, q, 0.744416058F);
  const float tail = p * t * e;
  return {x < 0 ? tail : 1.0F - tail, e * 0.398942280F};
}

// 0.5 (1 + tanh(u)) = sigmoid(2u), and 2u = x (c0 + c1 x²) with c0 = 2 sqrt(2/pi), c1 = 0.044715 c0.
constexpr float kC0 = 1.59576912F;
constexpr float kC1 = 0.0713548163F;

template <class T, GeluKind kKind>
__device__ inline float value(float x) {
  if constexpr (kKind == GeluKind::exact) return x * normal<T>(x).cumulative;
  return x * sigmoid<T>(x * fmaf(x * x, kC1, kC0));
}

template <class T, GeluKind kKind>
__device__ inline float slope(float x) {
  if constexpr (kKind == GeluKind::exact) {
    const Normal at = normal<T>(x);
    return fmaf(x, at.density, at.cumulative);
  }
  // s + x s (1 - s) (2u)'. Far out s (1 - s) is 0 and x³ may be infinite: bounding x keeps their product 0.
  const float near = isnan(x) ? x : fmaxf(fminf(x, 64.0F), -64.0F);
  const float square = near * near;
  const float s = sigmoid<T>(near * fmaf(square, kC1, kC0));
  const float rise = near * fmaf(square, 3 * kC1, kC0);
  return fmaf(rise, fmaf(-s, s, s), s);
}

template <class T, GeluKind kKind>
struct Forward {
  __device__ void operator()(const float (&in)[1], float (&out)[1]) const { out[0] = value<T, kKind>(in[0]); }
};
template <class T, GeluKind kKind>
struct Backward {
  __device__ void operator()(const float (&in)[2], float (&out)[1]) const { out[0] = in[0] * slope<T, kKind>(in[1]); }
};

Declined gelu_forward_cuda(const Tensor& x, GeluKind kind, const Tensor& y) {
  if (x.dtype() == DType::f64) return "f64";
  return visit_narrow(x.dtype(), [&](auto tag) {
    using T = decltype(tag);
    return kind == GeluKind::exact ? map_rows<T, 1, 1>("gelu", {&x}, {&y}, Forward<T, GeluKind::exact>{})
                                   : map_rows<T, 1, 1>("gelu", {&x}, {&y}, Forward<T, GeluKind::tanh>{});
  });
}

Declined gelu_backward_cuda(const Tensor& dy, const Tensor& x, GeluKind kind, const Tensor& dx) {
  if (x.dtype() == DType::f64) return "f64";
  return visit_narrow(x.dtype(), [&](auto tag) {
    using T = decltype(tag);
    return kind == GeluKind::exact
               ? map_rows<T, 2, 1>("gelu backward", {&dy, &x}, {&dx}, Backward<T, GeluKind::exact>{})
               : map_rows<T, 2, 1>("gelu backward", {&dy, &x}, {&dx}, Backward<T, GeluKind::tanh>{});
  });
}

}  // namespace

void register_gelu() {
  gelu_forward.on(DeviceType::cuda) = gelu_forward_cuda;
  gelu_backward.on(DeviceType::cuda) = gelu_backward_cuda;
}

}  // namespace wick::cuda
