#include "ops/op.h"
#include "ops/rms_norm/rms_norm.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/rms_norm/rms_norm_cpu.cpp"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"

#include <cmath>

#include "backend/cpu/reduce_rows.h"
#include "backend/cpu/simd-inl.h"
#include "core/dispatch.h"
#include "core/parallel.h"

HWY_BEFORE_NAMESPACE();
namespace wick {
namespace HWY_NAMESPACE {

// A row of a matrix, or of heads.
template <class T>
T* row_of(const Tensor& t, std::int64_t row) {
  if (t.rank() == 2) return t.data<T>() + row * t.stride(0);
  const std::int64_t heads = t.size(1);
  return t.data<T>() + row / heads * t.stride(0) + row % heads * t.stride(1);
}

template <class T>
HWY_ATTR void forward_rows(const Tensor& x, const Tensor& residual, const Tensor& weight, float eps, const Tensor& sum,
                           const Tensor& y, const Tensor& rstd, std::int64_t begin, std::int64_t end) {
  const FloatTag d;
  const auto n = static_cast<std::size_t>(weight.size(0));
  const T* w = weight.data<T>();
  for (std::int64_t row = begin; row < end; ++row) {
    const T* in = row_of<T>(x, row);
    if (residual.defined()) {
      const T* r = residual.data<T>() + row * residual.stride(0);
      T* s = sum.data<T>() + row * sum.stride(0);
      each_vector(d, n, [&](std::size_t i, std::size_t k) HWY_ATTR {
        store_some(d, hn::Add(load_some(d, in + i, k), load_some(d, r + i, k)), s + i, k);
      });
      in = s;
    }
    const float squares = sum_row(d, n, [&](std::size_t i, std::size_t k) HWY_ATTR {
      const auto v = load_some(d, in + i, k);
      return hn::Mul(v, v);
    });
    const float scale = 1.0F / std::sqrt(squares / static_cast<float>(n) + eps);
    rstd.data<float>()[row] = scale;
    const auto vscale = hn::Set(d, scale);
    T* out = y.data<T>() + row * y.stride(0);
    each_vector(d, n, [&](std::size_t i, std::size_t k) HWY_ATTR {
      store_some(d, hn::Mul(hn::Mul(load_some(d, in + i, k), vscale), load_some(d, w + i, k)), out + i, k);
    });
  }
}

// dx = rstd * (dy w - x̂ mean(dy w x̂)) + dsum with x̂ = x rstd; dweight += dy x̂ over the rows.
template <class T>
HWY_ATTR void backward_rows(const Tensor& dy, const Tensor& dsum, const Tensor& x, const Tensor& weight,
                            const Tensor& rstd, const Tensor& dx, float* dweight, std::int64_t begin,
                            std::int64_t end) {
  const FloatTag d;
  const auto n = static_cast<std::size_t>(weight.size(0));
  const T* w = weight.data<T>();
  for (std::int64_t row = begin; row < end; ++row) {
    const T* g = dy.data<T>() + row * dy.stride(0);
    const T* in = row_of<T>(x, row);
    const T* extra = dsum.defined() ? dsum.data<T>() + row * dsum.stride(0) : nullptr;
    const float scale = rstd.data<float>()[row];
    const auto vscale = hn::Set(d, scale);
    const float dot = sum_row(d, n, [&](std::size_t i, std::size_t k) HWY_ATTR {
      return hn::Mul(hn::Mul(load_some(d, g + i, k), load_some(d, w + i, k)), load_some(d, in + i, k));
    });
    const auto pull = hn::Set(d, dot * scale * scale * scale / static_cast<float>(n));
    T* out = row_of<T>(dx, row);
    each_vector(d, n, [&](std::size_t i, std::size_t k) HWY_ATTR {
      const auto vg = load_some(d, g + i, k);
      const auto vx = load_some(d, in + i, k);
      auto v = hn::NegMulAdd(vx, pull, hn::Mul(hn::Mul(vg, load_some(d, w + i, k)), vscale));
      if (extra != nullptr) v = hn::Add(v, load_some(d, extra + i, k));
      store_some(d, v, out + i, k);
      if (dweight != nullptr) {
        store_some(d, hn::MulAdd(hn::Mul(vg, vx), vscale, load_some(d, dweight + i, k)), dweight + i, k);
      }
    });
  }
}

void forward(const Tensor& x, const Tensor& residual, const Tensor& weight, float eps, const Tensor& sum,
             const Tensor& y, const Tensor& rstd, std::int64_t begin, std::int64_t end) {
  visit_narrow(x.dtype(),
               [&](auto tag) { forward_rows<decltype(tag)>(x, residual, weight, eps, sum, y, rstd, begin, end); });
}

void backward(const Tensor& dy, const Tensor& dsum, const Tensor& x, const Tensor& weight, const Tensor& rstd,
              const Tensor& dx, float* dweight, std::int64_t begin, std::int64_t end) {
  visit_narrow(x.dtype(),
               [&](auto tag) { backward_rows<decltype(tag)>(dy, dsum, x, weight, rstd, dx, dweight, begin, end); });
}

}  // namespace HWY_NAMESPACE
}  // namespace wick
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace wick {

HWY_EXPORT(forward);
HWY_EXPORT(backward);

Declined rms_norm_forward_cpu(const Tensor& x, const Tensor& residual, const Tensor& weight, float eps,
                              const Tensor& sum, const Tensor& y, const Tensor& rstd) {
  if (x.dtype() == DType::f64) return "f64";
  if (!weight.is_contiguous()) return "a strided weight";
  parallel_for(rstd.size(0), rows_per_piece(weight.size(0)), [&](std::int64_t begin, std::int64_t end) {
    HWY_DYNAMIC_DISPATCH(forward)(x, residual, weight, eps, sum, y, rstd, begin, end);
  });
  return nullptr;
}

Declined rms_norm_backward_cpu(const Tensor& dy, const Tensor& dsum, const Tensor& x, const Tensor& weight,
                               const Tensor& rstd, const Tensor& dx, const Tensor& dweight) {
  if (x.dtype() == DType::f64) return "f64";
  const auto run = HWY_DYNAMIC_DISPATCH(backward);
  if (!dweight.defined()) {
    parallel_for(rstd.size(0), rows_per_piece(weight.size(0)), [&](std::int64_t begin, std::int64_t end) {
      run(dy, dsum, x, weight, rstd, dx, nullptr, begin, end);
    });
    return nullptr;
  }
  reduce_rows(rstd.size(0), weight.size(0), dweight.data<float>(),
              [&](std::int64_t begin, std::int64_t end, float* partial) {
                run(dy, dsum, x, weight, rstd, dx, partial, begin, end);
              });
  return nullptr;
}

}  // namespace wick
#endif
