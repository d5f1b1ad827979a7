#include "backend/cpu/gemv.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/gemv_cpu.cpp"
#include "hwy/cache_control.h"
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

// The even and the odd ones of 2 * Lanes weights, by a shift and a mask: cheaper than widening them in order.
HWY_INLINE HWY_ATTR void load_pairs(FloatTag d, const bf16* p, FloatVec& even, FloatVec& odd) {
#if HWY_TARGET == HWY_SCALAR  // a vector of one float cannot be read as two bf16
  even = load(d, p);
  odd = load(d, p + 1);
#else
  const hn::Repartition<std::uint16_t, FloatTag> d16;
  const hn::RebindToUnsigned<FloatTag> d32;
  const auto bits = hn::BitCast(d32, hn::LoadU(d16, reinterpret_cast<const std::uint16_t*>(p)));
  even = hn::BitCast(d, hn::ShiftLeft<16>(bits));
  odd = hn::BitCast(d, hn::And(bits, hn::Set(d32, 0xffff0000U)));
#endif
}

// x as floats in the order in which load_pairs() gives the weights, zeros up to a whole step of 2 * Lanes.
std::vector<float> arrange(const bf16* x, std::size_t k, std::size_t step) {
  std::vector<float> out((k + step - 1) / step * step);
  for (std::size_t i = 0; i < k; ++i) {
    const std::size_t in_step = i % step;
    out[i - in_step + (in_step % 2) * (step / 2) + in_step / 2] = static_cast<float>(x[i]);
  }
  return out;
}

// Asks for memory 4 KiB ahead, where the processor's own prefetcher, which stops at a page, has not been. The address
// may lie behind the weight: it is never read, and made from an integer because such a pointer may not be formed.
HWY_INLINE HWY_ATTR void prefetch_after(const bf16* p) {
  hwy::Prefetch(reinterpret_cast<const bf16*>(reinterpret_cast<std::uintptr_t>(p) + 4096));
}

// One step of kRows dot products. Always inlined: the sums have to stay in registers.
template <std::size_t kRows>
HWY_INLINE HWY_ATTR void add_step(FloatTag d, const bf16* rows, std::int64_t stride, const float* x, FloatVec* even_sum,
                                  FloatVec* odd_sum) {
  const auto x_even = hn::LoadU(d, x);
  const auto x_odd = hn::LoadU(d, x + hn::Lanes(d));
  for (std::size_t r = 0; r < kRows; ++r) {
    FloatVec even, odd;
    load_pairs(d, rows + static_cast<std::int64_t>(r) * stride, even, odd);
    even_sum[r] = hn::MulAdd(even, x_even, even_sum[r]);
    odd_sum[r] = hn::MulAdd(odd, x_odd, odd_sum[r]);
  }
}

// Dot products of x with kRows rows of the weight, for each row in one order whatever kRows is.
template <std::size_t kRows>
HWY_ATTR void dot(const bf16* weight, std::int64_t stride, const float* x, std::size_t k, float* sums) {
  const FloatTag d;
  const std::size_t step = 2 * hn::Lanes(d);
  FloatVec even_sum[kRows];
  FloatVec odd_sum[kRows];
  for (std::size_t r = 0; r < kRows; ++r) even_sum[r] = odd_sum[r] = hn::Zero(d);
  std::size_t at = 0;
  for (; at + step <= k; at += step) {
    for (std::size_t r = 0; r < kRows; ++r) prefetch_after(weight + static_cast<std::int64_t>(r) * stride + at);
    add_step<kRows>(d, weight + at, stride, x + at, even_sum, odd_sum);
  }
  if (at < k) {
    constexpr std::size_t kWidth = HWY_MAX_BYTES / sizeof(bf16);
    bf16 tail[kRows * kWidth] = {};
    for (std::size_t r = 0; r < kRows; ++r) {
      std::copy_n(weight + static_cast<std::int64_t>(r) * stride + at, k - at, tail + r * kWidth);
    }
    add_step<kRows>(d, tail, kWidth, x + at, even_sum, odd_sum);
  }
  for (std::size_t r = 0; r < kRows; ++r) {
    sums[r] = hn::GetLane(hn::SumOfLanes(d, hn::Add(even_sum[r], odd_sum[r])));
  }
}

template <class C>
HWY_ATTR void gemv_typed(const Tensor& x, const Tensor& weight, const Tensor& c, float alpha, float beta) {
  constexpr std::int64_t kBlock = 4;
  const auto k = static_cast<std::size_t>(weight.size(1));
  const std::int64_t stride = weight.stride(0);
  const std::vector<float> arranged = arrange(x.data<bf16>(), k, 2 * hn::Lanes(FloatTag()));
  const bf16* w = weight.data<bf16>();
  C* out = c.data<C>();
  parallel_for(weight.size(0), rows_per_piece(weight.size(1)), [&](std::int64_t begin, std::int64_t end) HWY_ATTR {
    float sums[kBlock];
    for (std::int64_t row = begin; row < end;) {
      const std::int64_t count = end - row >= kBlock ? kBlock : 1;
      if (count == kBlock) {
        dot<kBlock>(w + row * stride, stride, arranged.data(), k, sums);
      } else {
        dot<1>(w + row * stride, stride, arranged.data(), k, sums);
      }
      for (std::int64_t r = 0; r < count; ++r) {
        C& to = out[row + r];
        to = convert<C>(alpha * sums[r] + (beta == 0 ? 0 : beta * convert<float>(to)));
      }
      row += count;
    }
  });
}

void gemv_target(const Tensor& x, const Tensor& weight, const Tensor& c, float alpha, float beta) {
  if (c.dtype() == DType::f32) {
    gemv_typed<float>(x, weight, c, alpha, beta);
  } else {
    gemv_typed<bf16>(x, weight, c, alpha, beta);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace wick
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace wick {

HWY_EXPORT(gemv_target);

void gemv_bf16(const Tensor& x, const Tensor& weight, const Tensor& c, float alpha, float beta) {
  HWY_DYNAMIC_DISPATCH(gemv_target)(x, weight, c, alpha, beta);
}

}  // namespace wick
#endif
