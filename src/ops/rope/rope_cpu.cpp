#include "ops/op.h"
#include "ops/rope/rope.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/rope/rope_cpu.cpp"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"

#include "backend/cpu/simd-inl.h"
#include "core/dispatch.h"
#include "core/parallel.h"

HWY_BEFORE_NAMESPACE();
namespace wick {
namespace HWY_NAMESPACE {

template <class T>
HWY_ATTR void rotate_tokens(const Tensor& x, const Tensor& cos, const Tensor& sin, const Tensor& positions,
                            bool backwards, const Tensor& y, std::int64_t begin, std::int64_t end) {
  const FloatTag d;
  const std::int64_t half = x.size(2) / 2;
  const auto sign = hn::Set(d, backwards ? -1.0F : 1.0F);
  for (std::int64_t token = begin; token < end; ++token) {
    const std::int64_t at = positions.defined() ? positions.data<std::int32_t>()[token] : token;
    const float* c = cos.data<float>() + at * half;
    const float* s = sin.data<float>() + at * half;
    for (std::int64_t head = 0; head < x.size(1); ++head) {
      const T* in = x.data<T>() + token * x.stride(0) + head * x.stride(1);
      T* out = y.data<T>() + token * y.stride(0) + head * y.stride(1);
      each_vector(d, static_cast<std::size_t>(half), [&](std::size_t i, std::size_t k) HWY_ATTR {
        const auto low = load_some(d, in + i, k);
        const auto high = load_some(d, in + half + i, k);
        const auto vc = load_some(d, c + i, k);
        const auto vs = hn::Mul(load_some(d, s + i, k), sign);
        store_some(d, hn::NegMulAdd(high, vs, hn::Mul(low, vc)), out + i, k);
        store_some(d, hn::MulAdd(low, vs, hn::Mul(high, vc)), out + half + i, k);
      });
    }
  }
}

void rotate(const Tensor& x, const Tensor& cos, const Tensor& sin, const Tensor& positions, bool backwards,
            const Tensor& y, std::int64_t begin, std::int64_t end) {
  visit_narrow(x.dtype(),
               [&](auto tag) { rotate_tokens<decltype(tag)>(x, cos, sin, positions, backwards, y, begin, end); });
}

}  // namespace HWY_NAMESPACE
}  // namespace wick
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace wick {

HWY_EXPORT(rotate);

Declined rope_rotate_cpu(const Tensor& x, const Tensor& cos, const Tensor& sin, const Tensor& positions, bool backwards,
                         const Tensor& y) {
  if (x.dtype() == DType::f64) return "f64";
  parallel_for(x.size(0), rows_per_piece(x.size(1) * x.size(2)), [&](std::int64_t begin, std::int64_t end) {
    HWY_DYNAMIC_DISPATCH(rotate)(x, cos, sin, positions, backwards, y, begin, end);
  });
  return nullptr;
}

}  // namespace wick
#endif
