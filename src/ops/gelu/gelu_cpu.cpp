#include "ops/gelu/gelu.h"
#include "ops/op.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/gelu/gelu_cpu.cpp"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"

#include "backend/cpu/math-inl.h"
#include "backend/cpu/simd-inl.h"
#include "core/dispatch.h"
#include "core/parallel.h"
#include "ops/gelu/gelu_cpu-inl.h"

HWY_BEFORE_NAMESPACE();
namespace wick {
namespace HWY_NAMESPACE {

inline HWY_ATTR FloatVec slope(FloatTag d, FloatVec x, GeluKind kind) {
  if (kind == GeluKind::exact) {
    const Normal at = normal(d, x);
    return hn::MulAdd(x, at.density, at.cumulative);
  }
  // s + x s (1 - s) (2u)'. Far out s (1 - s) is 0 and x³ may be infinite: bounding x keeps their product 0.
  const auto far = hn::Set(d, 64.0F);
  const auto near = hn::IfThenElse(hn::IsNaN(x), x, hn::Max(hn::Min(x, far), hn::Neg(far)));
  const auto square = hn::Mul(near, near);
  const auto s = sigmoid(d, hn::Mul(near, hn::MulAdd(square, hn::Set(d, kGeluC1), hn::Set(d, kGeluC0))));
  const auto rise = hn::Mul(near, hn::MulAdd(square, hn::Set(d, 3 * kGeluC1), hn::Set(d, kGeluC0)));
  return hn::MulAdd(rise, hn::NegMulAdd(s, s, s), s);
}

template <class T>
HWY_ATTR void forward_rows(const Tensor& x, GeluKind kind, const Tensor& y, std::int64_t begin, std::int64_t end) {
  const FloatTag d;
  for (std::int64_t row = begin; row < end; ++row) {
    const T* in = x.data<T>() + row * x.stride(0);
    T* out = y.data<T>() + row * y.stride(0);
    each_vector(d, static_cast<std::size_t>(x.size(1)), [&](std::size_t i, std::size_t k) HWY_ATTR {
      store_some(d, gelu_value(d, load_some(d, in + i, k), kind), out + i, k);
    });
  }
}

template <class T>
HWY_ATTR void backward_rows(const Tensor& dy, const Tensor& x, GeluKind kind, const Tensor& dx, std::int64_t begin,
                            std::int64_t end) {
  const FloatTag d;
  for (std::int64_t row = begin; row < end; ++row) {
    const T* g = dy.data<T>() + row * dy.stride(0);
    const T* in = x.data<T>() + row * x.stride(0);
    T* out = dx.data<T>() + row * dx.stride(0);
    each_vector(d, static_cast<std::size_t>(x.size(1)), [&](std::size_t i, std::size_t k) HWY_ATTR {
      store_some(d, hn::Mul(load_some(d, g + i, k), slope(d, load_some(d, in + i, k), kind)), out + i, k);
    });
  }
}

void forward(const Tensor& x, GeluKind kind, const Tensor& y, std::int64_t begin, std::int64_t end) {
  visit_narrow(x.dtype(), [&](auto tag) { forward_rows<decltype(tag)>(x, kind, y, begin, end); });
}

void backward(const Tensor& dy, const Tensor& x, GeluKind kind, const Tensor& dx, std::int64_t begin,
              std::int64_t end) {
  visit_narrow(x.dtype(), [&](auto tag) { backward_rows<decltype(tag)>(dy, x, kind, dx, begin, end); });
}

}  // namespace HWY_NAMESPACE
}  // namespace wick
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace wick {

HWY_EXPORT(forward);
HWY_EXPORT(backward);

Declined gelu_forward_cpu(const Tensor& x, GeluKind kind, const Tensor& y) {
  if (x.dtype() == DType::f64) return "f64";
  parallel_for(x.size(0), rows_per_piece(x.size(1)), [&](std::int64_t begin, std::int64_t end) {
    HWY_DYNAMIC_DISPATCH(forward)(x, kind, y, begin, end);
  });
  return nullptr;
}

Declined gelu_backward_cpu(const Tensor& dy, const Tensor& x, GeluKind kind, const Tensor& dx) {
  if (x.dtype() == DType::f64) return "f64";
  parallel_for(x.size(0), rows_per_piece(x.size(1)), [&](std::int64_t begin, std::int64_t end) {
    HWY_DYNAMIC_DISPATCH(backward)(dy, x, kind, dx, begin, end);
  });
  return nullptr;
}

}  // namespace wick
#endif
