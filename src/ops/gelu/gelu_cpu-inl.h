// GELU of float vectors for CPU kernels: a Highway "-inl" header like simd-inl.h.
#if defined(WICK_OPS_GELU_CPU_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef WICK_OPS_GELU_CPU_INL_H_
#undef WICK_OPS_GELU_CPU_INL_H_
#else
#define WICK_OPS_GELU_CPU_INL_H_
#endif

#include "backend/cpu/math-inl.h"
#include "wick/ops.h"

HWY_BEFORE_NAMESPACE();
namespace wick {
namespace HWY_NAMESPACE {

// 0.5 (1 + tanh(u)) = sigmoid(2u), and 2u = x (c0 + c1 x²) with c0 = 2 sqrt(2/pi), c1 = 0.044715 c0.
constexpr float kGeluC0 = 1.59576912F;
constexpr float kGeluC1 = 0.0713548163F;

inline HWY_ATTR FloatVec gelu_value(FloatTag d, FloatVec x, GeluKind kind) {
  if (kind == GeluKind::exact) return hn::Mul(x, normal(d, x).cumulative);
  const auto square = hn::Mul(x, x);
  return hn::Mul(x, sigmoid(d, hn::Mul(x, hn::MulAdd(square, hn::Set(d, kGeluC1), hn::Set(d, kGeluC0)))));
}

}  // namespace HWY_NAMESPACE
}  // namespace wick
HWY_AFTER_NAMESPACE();

#endif
