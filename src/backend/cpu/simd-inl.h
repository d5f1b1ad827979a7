// Loads and stores of float vectors from f32, bf16 and f16 memory, for CPU kernels. A Highway "-inl" header: included
// once per target inside the kernel's own file, so it has a per-target include guard.
#if defined(WICK_BACKEND_CPU_SIMD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef WICK_BACKEND_CPU_SIMD_INL_H_
#undef WICK_BACKEND_CPU_SIMD_INL_H_
#else
#define WICK_BACKEND_CPU_SIMD_INL_H_
#endif

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "hwy/highway.h"
#include "wick/dtype.h"

HWY_BEFORE_NAMESPACE();
namespace wick {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

using FloatTag = hn::ScalableTag<float>;
using FloatVec = hn::Vec<FloatTag>;

inline HWY_ATTR FloatVec load(FloatTag d, const float* p) { return hn::LoadU(d, p); }
inline HWY_ATTR FloatVec load(FloatTag d, const bf16* p) {
  const hn::Rebind<std::uint16_t, FloatTag> d16;
  const hn::RebindToUnsigned<FloatTag> d32;
  const auto bits = hn::LoadU(d16, reinterpret_cast<const std::uint16_t*>(p));
  return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(d32, bits)));
}
inline HWY_ATTR FloatVec load(FloatTag d, const f16* p) {
  const hn::Rebind<hwy::float16_t, FloatTag> d16;
  return hn::PromoteTo(d, hn::LoadU(d16, reinterpret_cast<const hwy::float16_t*>(p)));
}

inline HWY_ATTR void store(FloatTag d, FloatVec v, float* p) { hn::StoreU(v, d, p); }
inline HWY_ATTR void store(FloatTag /*d*/, FloatVec v, bf16* p) {
  // Round to nearest, ties to even; NaN stays NaN.
  const hn::RebindToUnsigned<FloatTag> d32;
  const hn::Rebind<std::uint16_t, FloatTag> d16;
  const auto bits = hn::BitCast(d32, v);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(d32, 1U));
  const auto rounded = hn::ShiftRight<16>(hn::Add(bits, hn::Add(odd, hn::Set(d32, 0x7fffU))));
  const auto quiet = hn::Or(hn::ShiftRight<16>(bits), hn::Set(d32, 0x40U));
  const auto nan = hn::RebindMask(d32, hn::IsNaN(v));
  hn::StoreU(hn::TruncateTo(d16, hn::IfThenElse(nan, quiet, rounded)), d16, reinterpret_cast<std::uint16_t*>(p));
}
inline HWY_ATTR void store(FloatTag /*d*/, FloatVec v, f16* p) {
  const hn::Rebind<hwy::float16_t, FloatTag> d16;
  hn::StoreU(hn::DemoteTo(d16, v), d16, reinterpret_cast<hwy::float16_t*>(p));
}

/// The first `count` (< Lanes) elements, zeros behind them; touches no memory past them.
template <class T>
inline HWY_ATTR FloatVec load_tail(FloatTag d, const T* p, std::size_t count) {
  HWY_ALIGN T buffer[HWY_MAX_BYTES / sizeof(float)] = {};
  std::memcpy(buffer, p, count * sizeof(T));
  return load(d, buffer);
}
template <class T>
inline HWY_ATTR void store_tail(FloatTag d, FloatVec v, T* p, std::size_t count) {
  HWY_ALIGN T buffer[HWY_MAX_BYTES / sizeof(float)];
  store(d, v, buffer);
  std::memcpy(p, buffer, count * sizeof(T));
}

/// Sum of f(i, tail) over a row: f(i, n) returns the vector for elements [i, i + n), zeros in the lanes behind n. Four
/// accumulators hide the latency and shorten the chains that round.
template <class F>
inline HWY_ATTR float sum_row(FloatTag d, std::size_t columns, const F& f) {
  const std::size_t lanes = hn::Lanes(d);
  auto a = hn::Zero(d), b = a, c = a, e = a;
  std::size_t i = 0;
  for (; i + 4 * lanes <= columns; i += 4 * lanes) {
    a = hn::Add(a, f(i, lanes));
    b = hn::Add(b, f(i + lanes, lanes));
    c = hn::Add(c, f(i + 2 * lanes, lanes));
    e = hn::Add(e, f(i + 3 * lanes, lanes));
  }
  for (; i + lanes <= columns; i += lanes) a = hn::Add(a, f(i, lanes));
  if (i < columns) b = hn::Add(b, f(i, columns - i));
  return hn::GetLane(hn::SumOfLanes(d, hn::Add(hn::Add(a, b), hn::Add(c, e))));
}

/// Loads [i, i + n) of a row, n = Lanes or fewer.
template <class T>
inline HWY_ATTR FloatVec load_some(FloatTag d, const T* p, std::size_t n) {
  return n == hn::Lanes(d) ? load(d, p) : load_tail(d, p, n);
}
template <class T>
inline HWY_ATTR void store_some(FloatTag d, FloatVec v, T* p, std::size_t n) {
  if (n == hn::Lanes(d)) {
    store(d, v, p);
  } else {
    store_tail(d, v, p, n);
  }
}

/// f(i, n) for each vector of a row: n = Lanes, and once fewer at the end where the row is no multiple of Lanes.
template <class F>
inline HWY_ATTR void each_vector(FloatTag d, std::size_t columns, const F& f) {
  const std::size_t lanes = hn::Lanes(d);
  std::size_t i = 0;
  for (; i + lanes <= columns; i += lanes) f(i, lanes);
  if (i < columns) f(i, columns - i);
}

}  // namespace HWY_NAMESPACE
}  // namespace wick
HWY_AFTER_NAMESPACE();

#endif
