#include "ops/op.h"
#include "ops/softmax/softmax.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/softmax/softmax_cpu.cpp"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"

#include <algorithm>
#include <limits>
#include <type_traits>
#include <vector>

#include "backend/cpu/math-inl.h"
#include "backend/cpu/simd-inl.h"
#include "core/dispatch.h"
#include "core/parallel.h"

HWY_BEFORE_NAMESPACE();
namespace wick {
namespace HWY_NAMESPACE {

template <class T>
HWY_ATTR float max_row(FloatTag d, const T* x, std::size_t n) {
  const auto lowest = hn::Set(d, -std::numeric_limits<float>::infinity());
  const std::size_t lanes = hn::Lanes(d);
  auto a = lowest, b = lowest;
  std::size_t i = 0;
  for (; i + 2 * lanes <= n; i += 2 * lanes) {
    a = hn::Max(a, load(d, x + i));
    b = hn::Max(b, load(d, x + i + lanes));
  }
  for (; i < n; i += lanes) {
    const std::size_t k = std::min(lanes, n - i);
    a = hn::Max(a, hn::IfThenElse(hn::FirstN(d, k), load_some(d, x + i, k), lowest));
  }
  return hn::GetLane(hn::MaxOfLanes(d, hn::Max(a, b)));
}

template <class T>
HWY_ATTR void forward_rows(const Tensor& x, const Tensor& y, std::int64_t begin, std::int64_t end) {
  const FloatTag d;
  const auto n = static_cast<std::size_t>(x.size(1));
  // The exponentials of a row wait for their sum in float32: in y itself where that is its type.
  std::vector<float> scratch(std::is_same_v<T, float> ? 0 : n);
  for (std::int64_t row = begin; row < end; ++row) {
    const T* in = x.data<T>() + row * x.stride(0);
    T* out = y.data<T>() + row * y.stride(0);
    float* e = scratch.data();
    if constexpr (std::is_same_v<T, float>) e = out;
    const auto top = hn::Set(d, max_row(d, in, n));
    const float total = sum_row(d, n, [&](std::size_t i, std::size_t k) HWY_ATTR {
      const auto v = exp(d, hn::Sub(load_some(d, in + i, k), top));
      store_some(d, v, e + i, k);
      return k == hn::Lanes(d) ? v : hn::IfThenElseZero(hn::FirstN(d, k), v);
    });
    const auto scale = hn::Set(d, 1.0F / total);
    each_vector(d, n, [&](std::size_t i, std::size_t k) HWY_ATTR {
      store_some(d, hn::Mul(load_some(d, e + i, k), scale), out + i, k);
    });
  }
}

template <class T>
HWY_ATTR void backward_rows(const Tensor& dy, const Tensor& y, const Tensor& dx, std::int64_t begin, std::int64_t end) {
  const FloatTag d;
  const auto n = static_cast<std::size_t>(y.size(1));
  for (std::int64_t row = begin; row < end; ++row) {
    const T* g = dy.data<T>() + row * dy.stride(0);
    const T* p = y.data<T>() + row * y.stride(0);
    T* out = dx.data<T>() + row * dx.stride(0);
    const auto dot = hn::Set(d, sum_row(d, n, [&](std::size_t i, std::size_t k) HWY_ATTR {
                               return hn::Mul(load_some(d, g + i, k), load_some(d, p + i, k));
                             }));
    each_vector(d, n, [&](std::size_t i, std::size_t k) HWY_ATTR {
      store_some(d, hn::Mul(load_some(d, p + i, k), hn::Sub(load_some(d, g + i, k), dot)), out + i, k);
    });
  }
}

void forward(const Tensor& x, const Tensor& y, std::int64_t begin, std::int64_t end) {
  visit_narrow(y.dtype(), [&](auto tag) { forward_rows<decltype(tag)>(x, y, begin, end); });
}

void backward(const Tensor& dy, const Tensor& y, const Tensor& dx, std::int64_t begin, std::int64_t end) {
  visit_narrow(y.dtype(), [&](auto tag) { backward_rows<decltype(tag)>(dy, y, dx, begin, end); });
}

}  // namespace HWY_NAMESPACE
}  // namespace wick
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace wick {

HWY_EXPORT(forward);
HWY_EXPORT(backward);

Declined softmax_forward_cpu(const Tensor& x, const Tensor& y) {
  if (y.dtype() == DType::f64) return "f64";
  parallel_for(y.size(0), rows_per_piece(y.size(1)), [&](std::int64_t begin, std::int64_t end) {
    HWY_DYNAMIC_DISPATCH(forward)(x, y, begin, end);
  });
  return nullptr;
}

Declined softmax_backward_cpu(const Tensor& dy, const Tensor& y, const Tensor& dx) {
  if (y.dtype() == DType::f64) return "f64";
  parallel_for(y.size(0), rows_per_piece(y.size(1)), [&](std::int64_t begin, std::int64_t end) {
    HWY_DYNAMIC_DISPATCH(backward)(dy, y, dx, begin, end);
  });
  return nullptr;
}

}  // namespace wick
#endif
