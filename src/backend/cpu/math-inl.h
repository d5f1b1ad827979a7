// Elementary functions of float vectors for CPU kernels: a Highway "-inl" header like simd-inl.h. NaN goes in and out.
#if defined(WICK_BACKEND_CPU_MATH_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef WICK_BACKEND_CPU_MATH_INL_H_
#undef WICK_BACKEND_CPU_MATH_INL_H_
#else
#define WICK_BACKEND_CPU_MATH_INL_H_
#endif

#include "backend/cpu/simd-inl.h"
#include "hwy/contrib/math/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace wick {
namespace HWY_NAMESPACE {

/// e^x for every x: Highway's is undefined for large x and makes 0 of NaN.
inline HWY_ATTR FloatVec exp(FloatTag d, FloatVec x) {
  const auto e = hn::Exp(d, hn::Min(x, hn::Set(d, 89.0F)));  // e^89 is already infinite
  return hn::IfThenElse(hn::IsNaN(x), x, e);
}

inline HWY_ATTR FloatVec sigmoid(FloatTag d, FloatVec x) {
  const auto one = hn::Set(d, 1.0F);
  return hn::Div(one, hn::Add(one, exp(d, hn::Neg(x))));
}

struct Normal {
  FloatVec cumulative;  ///< Phi(x)
  FloatVec density;     ///< phi(x)
};
/// The standard normal distribution. The tail 1 - Phi(a), a = |x|, is e^(-a²/2) p(q) / (a + 3.5) with q =
/// (a - 3.5) / (a + 3.5) and p our own minimax fit, relative error 7e-9 before rounding; so small values of Phi are
/// accurate relative to themselves, where 1 + erf would cancel.
inline HWY_ATTR Normal normal(FloatTag d, FloatVec x) {
  const auto one = hn::Set(d, 1.0F);
  const auto a = hn::Abs(x);
  const auto square = hn::Mul(a, a);
  // What rounding took from a² would be amplified by e^: put it back.
  const auto lost = hn::IfThenElseZero(hn::Lt(a, hn::Set(d, 15.0F)), hn::MulSub(a, a, square));
  const auto half = hn::Set(d, -0.5F);
  const auto raw = exp(d, hn::Mul(square, half));
  const auto e = hn::MulAdd(raw, hn::Mul(lost, half), raw);
  const auto t = hn::Div(one, hn::Add(a, hn::Set(d, 3.5F)));
  const auto q = hn::NegMulAdd(hn::Set(d, 7.0F), t, one);
  auto p = hn::Set(d, 0.00011068795F);
  for (const float c : {0.000421895907F, -0.000494942768F, -0.00317530916F, 0.0064931158F, 0.0174063779F, -0.116053037F,
                        0.315425038F, -0.565561771F, 0.744416058F}) {
    p = hn::MulAdd(p, q, hn::Set(d, c));
  }
  const auto tail = hn::Mul(hn::Mul(p, t), e);
  const auto negative = hn::Lt(x, hn::Zero(d));
  return {hn::IfThenElse(negative, tail, hn::Sub(one, tail)), hn::Mul(e, hn::Set(d, 0.398942280F))};
}

}  // namespace HWY_NAMESPACE
}  // namespace wick
HWY_AFTER_NAMESPACE();

#endif
