// What the attention kernels share. Everything runs on tiles of float32 in per-thread scratch, which stay in the first
// two cache levels: rows of q, k, v are converted as they are packed, so one set of loops serves all dtypes. Scores are
// held transposed, keys by queries, so that vector lanes run over queries and the softmax needs no sum across lanes.
// Included once per target, like simd-inl.h.
#if defined(WICK_OPS_ATTENTION_CPU_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef WICK_OPS_ATTENTION_CPU_INL_H_
#undef WICK_OPS_ATTENTION_CPU_INL_H_
#else
#define WICK_OPS_ATTENTION_CPU_INL_H_
#endif

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numbers>
#include <type_traits>

#include "backend/cpu/simd-inl.h"
#include "hwy/highway.h"
#include "ops/attention/attention_cpu.h"

HWY_BEFORE_NAMESPACE();
namespace wick {
namespace HWY_NAMESPACE {

// Accumulators a block of multiply() keeps: 4 x 4 vectors where there are 32 registers, 4 x 2 where there are 16.
#if HWY_TARGET <= HWY_AVX3 || HWY_ARCH_ARM
constexpr int kWideStrip = 4;
#else
constexpr int kWideStrip = 2;
#endif

/// 2^x with a relative error below 2e-7, for x <= 127; 0 below -126 and for -inf.
inline HWY_ATTR FloatVec exp2_of(FloatTag d, FloatVec x) {
  const hn::RebindToSigned<FloatTag> di;
  // Adding 1.5 * 2^23 leaves round(x) in the low bits of the sum.
  const auto magic = hn::Set(d, 12582912.0F);
  const auto shifted = hn::Add(x, magic);
  const auto f = hn::Sub(x, hn::Sub(shifted, magic));
  auto p = hn::MulAdd(hn::Set(d, 1.3276472e-3F), f, hn::Set(d, 9.6755413e-3F));
  p = hn::MulAdd(p, f, hn::Set(d, 5.5507133e-2F));
  p = hn::MulAdd(p, f, hn::Set(d, 2.4022120e-1F));
  p = hn::MulAdd(p, f, hn::Set(d, 6.9314697e-1F));
  p = hn::MulAdd(p, f, hn::Set(d, 1.0F));
  const auto scaled = hn::Add(hn::BitCast(di, p), hn::ShiftLeft<23>(hn::BitCast(di, shifted)));
  return hn::IfThenZeroElse(hn::Lt(x, hn::Set(d, -126.0F)), hn::BitCast(d, scaled));
}

/// f(n, column) for strips of n vectors (an integral constant: 4, 2 or 1) that cover `columns`, a multiple of Lanes.
template <class F>
inline HWY_ATTR void each_strip(std::size_t columns, const F& f) {
  const std::size_t lanes = hn::Lanes(FloatTag());
  constexpr std::size_t kWide = kWideStrip;
  std::size_t at = 0;
  for (; at + kWide * lanes <= columns; at += kWide * lanes) f(std::integral_constant<int, kWideStrip>(), at);
  if (kWide > 2 && at + 2 * lanes <= columns) {
    f(std::integral_constant<int, 2>(), at);
    at += 2 * lanes;
  }
  if (at < columns) f(std::integral_constant<int, 1>(), at);
}

// kRows x kVectors accumulators in registers.
template <int kRows, int kVectors>
inline HWY_ATTR void multiply_block(const float* a, std::size_t a_row, std::size_t a_step, const float* b,
                                    std::size_t b_row, float* c, std::size_t c_row, std::size_t depth, bool add) {
  const FloatTag d;
  const std::size_t lanes = hn::Lanes(d);
  FloatVec sums[kRows][kVectors];
  for (int m = 0; m < kRows; ++m) {
    for (int n = 0; n < kVectors; ++n) {
      sums[m][n] = add ? hn::LoadU(d, c + static_cast<std::size_t>(m) * c_row + static_cast<std::size_t>(n) * lanes)
                       : hn::Zero(d);
    }
  }
  for (std::size_t k = 0; k < depth; ++k) {
    FloatVec row[kVectors];
    for (int n = 0; n < kVectors; ++n) row[n] = hn::LoadU(d, b + static_cast<std::size_t>(n) * lanes);
    for (int m = 0; m < kRows; ++m) {
      const auto x = hn::Set(d, a[static_cast<std::size_t>(m) * a_row]);
      for (int n = 0; n < kVectors; ++n) sums[m][n] = hn::MulAdd(x, row[n], sums[m][n]);
    }
    a += a_step;
    b += b_row;
  }
  for (int m = 0; m < kRows; ++m) {
    for (int n = 0; n < kVectors; ++n) {
      hn::StoreU(sums[m][n], d, c + static_cast<std::size_t>(m) * c_row + static_cast<std::size_t>(n) * lanes);
    }
  }
}

/// A matrix of a tile, read one element at a time: element (m, k) at data[m * row + k * step].
struct Left {
  const float* data;
  std::size_t row;
  std::size_t step;
};

/// c[m][n] = (add ? c[m][n] : 0) + the sum over k < depth of a(m, k) b[k][n]; `columns` is a multiple of Lanes.
inline HWY_ATTR void multiply(const Left& a, const float* b, std::size_t b_row, float* c, std::size_t c_row,
                              std::size_t rows, std::size_t columns, std::size_t depth, bool add) {
  each_strip(columns, [&](auto strip, std::size_t at) HWY_ATTR {
    constexpr int kVectors = decltype(strip)::value;
    constexpr int kRows = kVectors == kWideStrip ? 4 : 8;
    std::size_t m = 0;
    const auto block = [&](auto count) HWY_ATTR {
      multiply_block<decltype(count)::value, kVectors>(a.data + m * a.row, a.row, a.step, b + at, b_row,
                                                       c + m * c_row + at, c_row, depth, add);
      m += static_cast<std::size_t>(decltype(count)::value);
    };
    while (m + static_cast<std::size_t>(kRows) <= rows) block(std::integral_constant<int, kRows>());
    if (kRows > 4 && m + 4 <= rows) block(std::integral_constant<int, 4>());
    if (m + 2 <= rows) block(std::integral_constant<int, 2>());
    if (m < rows) block(std::integral_constant<int, 1>());
  });
}

/// rows [count][d] of any dtype -> dst [kAttentionTile or fewer][width] f32; columns behind d are zeros.
template <class T>
inline HWY_ATTR void pack_rows(const T* src, std::int64_t stride, std::size_t count, std::size_t head_dim, float* dst,
                               std::size_t width) {
  const FloatTag d;
  for (std::size_t r = 0; r < count; ++r) {
    const T* from = src + static_cast<std::int64_t>(r) * stride;
    float* to = dst + r * width;
    each_vector(d, head_dim,
                [&](std::size_t i, std::size_t n) HWY_ATTR { hn::StoreU(load_some(d, from + i, n), d, to + i); });
  }
}

/// dst [columns][dst_row] = src [rows][src_row] transposed, times `factor`. Rows and columns are multiples of 4.
inline HWY_ATTR void transpose_tile(const float* src, std::size_t src_row, std::size_t rows, std::size_t columns,
                                    float factor, float* dst, std::size_t dst_row) {
#if HWY_TARGET == HWY_SCALAR
  for (std::size_t r = 0; r < rows; ++r) {
    for (std::size_t c = 0; c < columns; ++c) dst[c * dst_row + r] = factor * src[r * src_row + c];
  }
#else
  const hn::Full128<float> d;
  const hn::Full128<std::uint64_t> d64;
  const auto scale = hn::Set(d, factor);
  for (std::size_t r = 0; r < rows; r += 4) {
    for (std::size_t c = 0; c < columns; c += 4) {
      const float* from = src + r * src_row + c;
      const auto a = hn::LoadU(d, from);
      const auto b = hn::LoadU(d, from + src_row);
      const auto e = hn::LoadU(d, from + 2 * src_row);
      const auto f = hn::LoadU(d, from + 3 * src_row);
      const auto ab_low = hn::BitCast(d64, hn::InterleaveLower(d, a, b));
      const auto ab_high = hn::BitCast(d64, hn::InterleaveUpper(d, a, b));
      const auto ef_low = hn::BitCast(d64, hn::InterleaveLower(d, e, f));
      const auto ef_high = hn::BitCast(d64, hn::InterleaveUpper(d, e, f));
      float* to = dst + c * dst_row + r;
      hn::StoreU(hn::Mul(scale, hn::BitCast(d, hn::InterleaveLower(d64, ab_low, ef_low))), d, to);
      hn::StoreU(hn::Mul(scale, hn::BitCast(d, hn::InterleaveUpper(d64, ab_low, ef_low))), d, to + dst_row);
      hn::StoreU(hn::Mul(scale, hn::BitCast(d, hn::InterleaveLower(d64, ab_high, ef_high))), d, to + 2 * dst_row);
      hn::StoreU(hn::Mul(scale, hn::BitCast(d, hn::InterleaveUpper(d64, ab_high, ef_high))), d, to + 3 * dst_row);
    }
  }
#endif
}

/// Adds to a transposed tile [keys][kAttentionTile] of scores in powers of two what a head's bias [2 reach + 1] says of
/// the distances between its keys (rows, from position first_key on) and its queries (lanes, from position first on).
inline HWY_ATTR void add_bias(float* tile, std::size_t keys, std::size_t columns, std::int64_t first_key,
                              std::int64_t first, const float* bias, std::int64_t reach) {
  const FloatTag d;
  // By growing query - key: what a row needs then lies side by side.
  HWY_ALIGN float strip[2 * kAttentionTile];
  const std::int64_t farthest = first_key + static_cast<std::int64_t>(keys) - 1 - first;
  for (std::size_t t = 0; t + 1 < keys + columns; ++t) {
    const std::int64_t distance = std::clamp(farthest - static_cast<std::int64_t>(t), -reach, reach);
    strip[t] = bias[distance + reach] * std::numbers::log2e_v<float>;
  }
  for (std::size_t j = 0; j < keys; ++j) {
    const float* from = strip + keys - 1 - j;
    float* to = tile + j * kAttentionTile;
    for (std::size_t c = 0; c < columns; c += hn::Lanes(d)) {
      hn::StoreU(hn::Add(hn::LoadU(d, to + c), hn::LoadU(d, from + c)), d, to + c);
    }
  }
}
/// The same of a head of attention, where it has a bias.
inline HWY_ATTR void add_bias(const AttentionLayout& layout, std::int64_t head, float* tile, std::size_t keys,
                              std::size_t columns, std::int64_t first_key, std::int64_t first) {
  if (!layout.bias.defined()) return;
  const std::int64_t size = layout.bias.size(1);
  add_bias(tile, keys, columns, first_key, first, layout.bias.data<float>() + head * size, size / 2);
}

/// Sets the entries of a transposed tile [keys][kAttentionTile] whose key (first_key + row) is not seen by its query
/// (at position first + lane) to `value`.
inline HWY_ATTR void mask_tile(float* tile, std::size_t keys, std::size_t columns, std::int64_t first_key,
                               std::int64_t first, std::int64_t window, float value) {
  const FloatTag d;
  const hn::RebindToSigned<FloatTag> di;
  const auto hidden = hn::Set(d, value);
  // Distances of a tile are small unless everything in it lies on one side: clamped, they fit 32 bits.
  const auto reach = static_cast<std::int32_t>(window == 0 ? std::numeric_limits<std::int32_t>::max()
                                                           : std::min<std::int64_t>(window, 0x40000000));
  for (std::size_t j = 0; j < keys; ++j) {
    const std::int64_t distance = first - first_key - static_cast<std::int64_t>(j);
    const auto base = static_cast<std::int32_t>(std::clamp<std::int64_t>(distance, -0x40000000, 0x40000000));
    for (std::size_t c = 0; c < columns; c += hn::Lanes(d)) {
      const auto back = hn::Iota(di, base + static_cast<std::int32_t>(c));
      const auto out = hn::Or(hn::Lt(back, hn::Zero(di)), hn::Gt(back, hn::Set(di, reach - 1)));
      float* at = tile + j * kAttentionTile + c;
      hn::StoreU(hn::IfThenElse(hn::RebindMask(d, out), hidden, hn::LoadU(d, at)), d, at);
    }
  }
}

/// True if every query at positions [first, last] sees all of the keys [begin, end).
inline bool all_visible(const AttentionLayout& layout, std::int64_t first, std::int64_t last, std::int64_t begin,
                        std::int64_t end) {
  return !layout.causal || (end - 1 <= first && (layout.window == 0 || last - begin < layout.window));
}

/// head_dim rounded up to whole vectors.
inline HWY_ATTR std::size_t padded(std::size_t head_dim) {
  const std::size_t lanes = hn::Lanes(FloatTag());
  return (head_dim + lanes - 1) / lanes * lanes;
}

}  // namespace HWY_NAMESPACE
}  // namespace wick
HWY_AFTER_NAMESPACE();

#endif
