#include "ops/op.h"
#include "ops/swiglu/swiglu.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/swiglu/swiglu_cpu.cpp"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"

#include "backend/cpu/math-inl.h"
#include "backend/cpu/simd-inl.h"
#include "core/dispatch.h"
#include "core/parallel.h"

HWY_BEFORE_NAMESPACE();
namespace wick {
namespace HWY_NAMESPACE {

template <class T>
HWY_ATTR void forward_rows(const Tensor& gate, const Tensor& up, const Tensor& y, std::int64_t begin,
                           std::int64_t end) {
  const FloatTag d;
  const auto n = static_cast<std::size_t>(y.size(1));
  for (std::int64_t row = begin; row < end; ++row) {
    const T* z = gate.data<T>() + row * gate.stride(0);
    const T* u = up.data<T>() + row * up.stride(0);
    T* out = y.data<T>() + row * y.stride(0);
    each_vector(d, n, [&](std::size_t i, std::size_t k) HWY_ATTR {
      const auto v = load_some(d, z + i, k);
      store_some(d, hn::Mul(hn::Mul(v, sigmoid(d, v)), load_some(d, u + i, k)), out + i, k);
    });
  }
}

// With s = sigmoid(z): dup = dy z s, dgate = dy up (s + z s (1 - s)).
template <class T>
HWY_ATTR void backward_rows(const Tensor& dy, const Tensor& gate, const Tensor& up, const Tensor& dgate,
                            const Tensor& dup, std::int64_t begin, std::int64_t end) {
  const FloatTag d;
  const auto n = static_cast<std::size_t>(dy.size(1));
  for (std::int64_t row = begin; row < end; ++row) {
    const T* g = dy.data<T>() + row * dy.stride(0);
    const T* z = gate.data<T>() + row * gate.stride(0);
    const T* u = up.data<T>() + row * up.stride(0);
    T* dz = dgate.defined() ? dgate.data<T>() + row * dgate.stride(0) : nullptr;
    T* du = dup.defined() ? dup.data<T>() + row * dup.stride(0) : nullptr;
    each_vector(d, n, [&](std::size_t i, std::size_t k) HWY_ATTR {
      const auto vz = load_some(d, z + i, k);
      const auto vg = load_some(d, g + i, k);
      const auto s = sigmoid(d, vz);
      const auto silu = hn::Mul(vz, s);
      if (du != nullptr) store_some(d, hn::Mul(vg, silu), du + i, k);
      if (dz != nullptr) {
        const auto slope = hn::Add(s, hn::NegMulAdd(silu, s, silu));
        store_some(d, hn::Mul(hn::Mul(vg, load_some(d, u + i, k)), slope), dz + i, k);
      }
    });
  }
}

void forward(const Tensor& gate, const Tensor& up, const Tensor& y, std::int64_t begin, std::int64_t end) {
  visit_narrow(y.dtype(), [&](auto tag) { forward_rows<decltype(tag)>(gate, up, y, begin, end); });
}

void backward(const Tensor& dy, const Tensor& gate, const Tensor& up, const Tensor& dgate, const Tensor& dup,
              std::int64_t begin, std::int64_t end) {
  visit_narrow(dy.dtype(), [&](auto tag) { backward_rows<decltype(tag)>(dy, gate, up, dgate, dup, begin, end); });
}

}  // namespace HWY_NAMESPACE
}  // namespace wick
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace wick {

HWY_EXPORT(forward);
HWY_EXPORT(backward);

Declined swiglu_forward_cpu(const Tensor& gate, const Tensor& up, const Tensor& y) {
  if (y.dtype() == DType::f64) return "f64";
  parallel_for(y.size(0), rows_per_piece(y.size(1)), [&](std::int64_t begin, std::int64_t end) {
    HWY_DYNAMIC_DISPATCH(forward)(gate, up, y, begin, end);
  });
  return nullptr;
}

Declined swiglu_backward_cpu(const Tensor& dy, const Tensor& gate, const Tensor& up, const Tensor& dgate,
                             const Tensor& dup) {
  if (dy.dtype() == DType::f64) return "f64";
  parallel_for(dy.size(0), rows_per_piece(dy.size(1)), [&](std::int64_t begin, std::int64_t end) {
    HWY_DYNAMIC_DISPATCH(backward)(dy, gate, up, dgate, dup, begin, end);
  });
  return nullptr;
}

}  // namespace wick
#endif
