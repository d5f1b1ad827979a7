#include "ops/layer_norm/layer_norm.h"
#include "ops/op.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/layer_norm/layer_norm_cpu.cpp"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"

#include <algorithm>
#include <cmath>

#include "backend/cpu/reduce_rows.h"
#include "backend/cpu/simd-inl.h"
#include "core/dispatch.h"
#include "core/parallel.h"

HWY_BEFORE_NAMESPACE();
namespace wick {
namespace HWY_NAMESPACE {

// Zeros behind the first k lanes, for terms that are not zero where x is.
inline HWY_ATTR FloatVec first(FloatTag d, std::size_t k, FloatVec v) {
  return k == hn::Lanes(d) ? v : hn::IfThenElseZero(hn::FirstN(d, k), v);
}

template <class T>
HWY_ATTR void add_row(const T* x, const T* residual, T* total, std::size_t n) {
  const FloatTag d;
  each_vector(d, n, [&](std::size_t i, std::size_t k) HWY_ATTR {
    store_some(d, hn::Add(load_some(d, x + i, k), load_some(d, residual + i, k)), total + i, k);
  });
}

template <class T>
HWY_ATTR void forward_rows(const Tensor& x, const Tensor& residual, const Tensor& weight, const Tensor& bias, float eps,
                           const Tensor& total, const Tensor& y, const Tensor& stats, std::int64_t begin,
                           std::int64_t end) {
  const FloatTag d;
  const auto n = static_cast<std::size_t>(x.size(1));
  const auto count = static_cast<float>(n);
  const T* w = weight.data<T>();
  const T* b = bias.defined() ? bias.data<T>() : nullptr;
  float* means = stats.defined() ? stats.data<float>() : nullptr;
  float* rstds = stats.defined() ? means + stats.stride(0) : nullptr;
  for (std::int64_t row = begin; row < end; ++row) {
    const T* in = x.data<T>() + row * x.stride(0);
    if (residual.defined()) {  // a sum that nobody wants stands where y will
      const Tensor& sum = total.defined() ? total : y;
      T* const added = sum.data<T>() + row * sum.stride(0);
      add_row(in, residual.data<T>() + row * residual.stride(0), added, n);
      in = added;
    }
    const float rough =
        sum_row(d, n, [&](std::size_t i, std::size_t k) HWY_ATTR { return load_some(d, in + i, k); }) / count;
    // The second pass also finds what rounding left in the first sum: it matters where the mean is far from zero.
    const auto vrough = hn::Set(d, rough);
    auto left = hn::Zero(d);
    const float squares = sum_row(d, n, [&](std::size_t i, std::size_t k) HWY_ATTR {
      const auto v = first(d, k, hn::Sub(load_some(d, in + i, k), vrough));
      left = hn::Add(left, v);
      return hn::Mul(v, v);
    });
    const float correction = hn::GetLane(hn::SumOfLanes(d, left)) / count;
    const float mean = rough + correction;
    const auto vmean = hn::Set(d, mean);
    const float rstd = 1.0F / std::sqrt(std::max(squares / count - correction * correction, 0.0F) + eps);
    if (means != nullptr) {
      means[row] = mean;
      rstds[row] = rstd;
    }
    const auto vscale = hn::Set(d, rstd);
    T* out = y.data<T>() + row * y.stride(0);
    each_vector(d, n, [&](std::size_t i, std::size_t k) HWY_ATTR {
      const auto unit = hn::Mul(hn::Sub(load_some(d, in + i, k), vmean), vscale);
      const auto shift = b != nullptr ? load_some(d, b + i, k) : hn::Zero(d);
      store_some(d, hn::MulAdd(unit, load_some(d, w + i, k), shift), out + i, k);
    });
  }
}

// With x̂ = (x - mean) rstd and h = dy w: dx = rstd (h - mean(h) - x̂ mean(h x̂)); dweight += dy x̂, dbias += dy.
template <class T>
HWY_ATTR void backward_rows(const Tensor& dy, const Tensor& x, const Tensor& weight, const Tensor& stats,
                            const Tensor& dx, float* dparams, std::int64_t begin, std::int64_t end) {
  const FloatTag d;
  const auto n = static_cast<std::size_t>(x.size(1));
  const auto count = static_cast<float>(n);
  const T* w = weight.data<T>();
  const float* means = stats.data<float>();
  const float* rstds = means + stats.stride(0);
  for (std::int64_t row = begin; row < end; ++row) {
    const T* g = dy.data<T>() + row * dy.stride(0);
    const T* in = x.data<T>() + row * x.stride(0);
    const auto vmean = hn::Set(d, means[row]);
    const auto vscale = hn::Set(d, rstds[row]);
    if (dx.defined()) {
      auto vdot = hn::Zero(d);
      const float total = sum_row(d, n, [&](std::size_t i, std::size_t k) HWY_ATTR {
        const auto h = hn::Mul(load_some(d, g + i, k), load_some(d, w + i, k));
        vdot = hn::MulAdd(h, hn::Sub(load_some(d, in + i, k), vmean), vdot);
        return h;
      });
      const float dot = hn::GetLane(hn::SumOfLanes(d, vdot)) * rstds[row];
      const auto centre = hn::Set(d, total / count);
      const auto pull = hn::Set(d, dot / count);
      T* out = dx.data<T>() + row * dx.stride(0);
      each_vector(d, n, [&](std::size_t i, std::size_t k) HWY_ATTR {
        const auto h = hn::Mul(load_some(d, g + i, k), load_some(d, w + i, k));
        const auto unit = hn::Mul(hn::Sub(load_some(d, in + i, k), vmean), vscale);
        store_some(d, hn::Mul(hn::NegMulAdd(unit, pull, hn::Sub(h, centre)), vscale), out + i, k);
      });
    }
    if (dparams != nullptr) {
      float* dweight = dparams;
      float* dbias = dparams + n;
      each_vector(d, n, [&](std::size_t i, std::size_t k) HWY_ATTR {
        const auto vg = load_some(d, g + i, k);
        const auto unit = hn::Mul(hn::Sub(load_some(d, in + i, k), vmean), vscale);
        store_some(d, hn::MulAdd(vg, unit, load_some(d, dweight + i, k)), dweight + i, k);
        store_some(d, hn::Add(vg, load_some(d, dbias + i, k)), dbias + i, k);
      });
    }
  }
}

void forward(const Tensor& x, const Tensor& residual, const Tensor& weight, const Tensor& bias, float eps,
             const Tensor& total, const Tensor& y, const Tensor& stats, std::int64_t begin, std::int64_t end) {
  visit_narrow(x.dtype(), [&](auto tag) {
    forward_rows<decltype(tag)>(x, residual, weight, bias, eps, total, y, stats, begin, end);
  });
}

void backward(const Tensor& dy, const Tensor& x, const Tensor& weight, const Tensor& stats, const Tensor& dx,
              float* dparams, std::int64_t begin, std::int64_t end) {
  visit_narrow(x.dtype(),
               [&](auto tag) { backward_rows<decltype(tag)>(dy, x, weight, stats, dx, dparams, begin, end); });
}

}  // namespace HWY_NAMESPACE
}  // namespace wick
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace wick {

HWY_EXPORT(forward);
HWY_EXPORT(backward);

Declined layer_norm_forward_cpu(const Tensor& x, const Tensor& residual, const Tensor& weight, const Tensor& bias,
                                float eps, const Tensor& total, const Tensor& y, const Tensor& stats) {
  if (x.dtype() == DType::f64) return "f64";
  if (!weight.is_contiguous()) return "a strided weight";
  if (bias.defined() && !bias.is_contiguous()) return "a strided bias";
  parallel_for(x.size(0), rows_per_piece(x.size(1)), [&](std::int64_t begin, std::int64_t end) {
    HWY_DYNAMIC_DISPATCH(forward)(x, residual, weight, bias, eps, total, y, stats, begin, end);
  });
  return nullptr;
}

Declined layer_norm_backward_cpu(const Tensor& dy, const Tensor& x, const Tensor& weight, const Tensor& stats,
                                 const Tensor& dx, const Tensor& dparams) {
  if (x.dtype() == DType::f64) return "f64";
  const auto run = HWY_DYNAMIC_DISPATCH(backward);
  if (!dparams.defined()) {
    parallel_for(x.size(0), rows_per_piece(x.size(1)),
                 [&](std::int64_t begin, std::int64_t end) { run(dy, x, weight, stats, dx, nullptr, begin, end); });
    return nullptr;
  }
  reduce_rows(x.size(0), 2 * x.size(1), dparams.data<float>(),
              [&](std::int64_t begin, std::int64_t end, float* partial) {
                run(dy, x, weight, stats, dx, partial, begin, end);
              });
  return nullptr;
}

}  // namespace wick
#endif
