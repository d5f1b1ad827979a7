#include "backend/cpu/gemv.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/gemv_cpu.cpp"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"

#include <algorithm>
#include <vector>

#include "backend/cpu/simd-inl.h"
#include "core/parallel.h"
#include "core/strided.h"

HWY_BEFORE_NAMESPACE();
namespace wick {
namespace HWY_NAMESPACE {

// A step of the dot product takes two vectors of floats of each row. For f32 they lie one behind the other. A vector of
// bf16 pairs is taken apart into its even and its odd elements, a shift and a mask, so x is split that way beforehand.
template <class T>
HWY_ATTR void load_pair(FloatTag d, const T* p, FloatVec& first, FloatVec& second) {
  if constexpr (std::is_same_v<T, float>) {
    first = hn::LoadU(d, p);
    second = hn::LoadU(d, p + hn::Lanes(d));
  } else {
#if HWY_TARGET == HWY_SCALAR  // a vector of one float cannot be read as two bf16
    first = load(d, p);
    second = load(d, p + 1);
#else
    const hn::Repartition<std::uint16_t, FloatTag> d16;
    const hn::RebindToUnsigned<FloatTag> d32;
    const auto bits = hn::BitCast(d32, hn::LoadU(d16, reinterpret_cast<const std::uint16_t*>(p)));
    first = hn::BitCast(d, hn::ShiftLeft<16>(bits));
    second = hn::BitCast(d, hn::And(bits, hn::Set(d32, 0xffff0000U)));
#endif
  }
}

// x as floats in the order in which load_pair() gives the weight's elements, zeros up to a whole step.
template <class T>
HWY_ATTR void arrange(const T* x, std::size_t k, std::size_t step, float* out) {
  const std::size_t half = step / 2;
  for (std::size_t i = 0; i < k; ++i) {
    if constexpr (std::is_same_v<T, float>) {
      out[i] = x[i];
    } else {
      const std::size_t in_step = i % step;
      out[i - in_step + (in_step % 2) * half + in_step / 2] = convert<float>(x[i]);
    }
  }
}

// Dot products of kRows rows of the weight with kColumns rows of x: out[r * kColumns + m].
template <class T, std::size_t kRows, std::size_t kColumns>
HWY_ATTR void dot(const T* weight, std::int64_t stride, const float* x, std::size_t k, std::size_t padded, float* out) {
  const FloatTag d;
  const std::size_t lanes = hn::Lanes(d);
  const std::size_t step = 2 * lanes;
  FloatVec even[kRows * kColumns];
  FloatVec odd[kRows * kColumns];
  for (std::size_t i = 0; i < kRows * kColumns; ++i) even[i] = odd[i] = hn::Zero(d);
  const auto add = [&](std::size_t at, auto&& row) HWY_ATTR {
    for (std::size_t r = 0; r < kRows; ++r) {
      FloatVec first, second;
      load_pair(d, row(r), first, second);
      for (std::size_t m = 0; m < kColumns; ++m) {
        const std::size_t i = r * kColumns + m;
        even[i] = hn::MulAdd(first, hn::LoadU(d, x + m * padded + at), even[i]);
        odd[i] = hn::MulAdd(second, hn::LoadU(d, x + m * padded + at + lanes), odd[i]);
      }
    }
  };
  std::size_t at = 0;
  for (; at + step <= k; at += step) {
    add(at, [&](std::size_t r) { return weight + static_cast<std::int64_t>(r) * stride + at; });
  }
  if (at < k) {
    HWY_ALIGN T tail[kRows][2 * HWY_MAX_BYTES / sizeof(float)] = {};
    for (std::size_t r = 0; r < kRows; ++r) {
      std::copy_n(weight + static_cast<std::int64_t>(r) * stride + at, k - at, tail[r]);
    }
    add(at, [&](std::size_t r) { return static_cast<const T*>(tail[r]); });
  }
  for (std::size_t i = 0; i < kRows * kColumns; ++i) {
    out[i] = hn::GetLane(hn::SumOfLanes(d, hn::Add(even[i], odd[i])));
  }
}

template <class T, class C, std::size_t kColumns>
HWY_ATTR void gemv_rows(const Tensor& weight, const float* x, std::size_t padded, const Tensor& c, float alpha,
                        float beta, std::int64_t begin, std::int64_t end) {
  constexpr std::int64_t kBlock = kColumns <= 2 ? 4 : 2;  // as many sums as registers hold
  const auto k = static_cast<std::size_t>(weight.size(1));
  const T* w = weight.data<T>();
  C* out = c.data<C>();
  float sums[kBlock * kColumns];
  for (std::int64_t row = begin; row < end;) {
    const T* from = w + row * weight.stride(0);
    const std::int64_t count = end - row >= kBlock ? kBlock : 1;
    if (count == kBlock) {
      dot<T, kBlock, kColumns>(from, weight.stride(0), x, k, padded, sums);
    } else {
      dot<T, 1, kColumns>(from, weight.stride(0), x, k, padded, sums);
    }
    for (std::int64_t r = 0; r < count; ++r) {
      for (std::size_t m = 0; m < kColumns; ++m) {
        C& to = out[static_cast<std::int64_t>(m) * c.stride(0) + row + r];
        const float old = beta == 0 ? 0 : beta * convert<float>(to);
        to = convert<C>(alpha * sums[static_cast<std::size_t>(r) * kColumns + m] + old);
      }
    }
    row += count;
  }
}

template <class T, class C>
HWY_ATTR void gemv_typed(const Tensor& x, const Tensor& weight, const Tensor& c, float alpha, float beta) {
  const auto k = static_cast<std::size_t>(x.size(1));
  const std::size_t step = 2 * hn::Lanes(FloatTag());
  const std::size_t padded = (k + step - 1) / step * step;
  std::vector<float> arranged(static_cast<std::size_t>(x.size(0)) * padded);
  for (std::int64_t m = 0; m < x.size(0); ++m) {
    arrange(x.data<T>() + m * x.stride(0), k, step, arranged.data() + static_cast<std::size_t>(m) * padded);
  }
  parallel_for(weight.size(0), rows_per_piece(weight.size(1)), [&](std::int64_t begin, std::int64_t end) HWY_ATTR {
    const auto rows = [&]<std::size_t kColumns>() HWY_ATTR {
      gemv_rows<T, C, kColumns>(weight, arranged.data(), padded, c, alpha, beta, begin, end);
    };
    switch (x.size(0)) {
      case 1:
        return rows.template operator()<1>();
      case 2:
        return rows.template operator()<2>();
      case 3:
        return rows.template operator()<3>();
      default:
        return rows.template operator()<4>();
    }
  });
}

void gemv_target(const Tensor& x, const Tensor& weight, const Tensor& c, float alpha, float beta) {
  if (x.dtype() == DType::f32) {
    gemv_typed<float, float>(x, weight, c, alpha, beta);
  } else if (c.dtype() == DType::f32) {
    gemv_typed<bf16, float>(x, weight, c, alpha, beta);
  } else {
    gemv_typed<bf16, bf16>(x, weight, c, alpha, beta);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace wick
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace wick {

HWY_EXPORT(gemv_target);

void gemv(const Tensor& x, const Tensor& weight, const Tensor& c, float alpha, float beta) {
  HWY_DYNAMIC_DISPATCH(gemv_target)(x, weight, c, alpha, beta);
}

}  // namespace wick
#endif
