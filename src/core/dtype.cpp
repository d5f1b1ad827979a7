#include "wick/dtype.h"

#include <array>
#include <cmath>
#include <utility>

#include "core/fail.h"

namespace wick {

std::size_t size_of(DType dtype) noexcept {
  switch (dtype) {
    case DType::bf16:
    case DType::f16:
      return 2;
    case DType::f32:
    case DType::i32:
      return 4;
    case DType::f64:
    case DType::i64:
      return 8;
  }
  return 0;
}

std::string_view to_string(DType dtype) noexcept {
  switch (dtype) {
    case DType::f32:
      return "f32";
    case DType::bf16:
      return "bf16";
    case DType::f16:
      return "f16";
    case DType::f64:
      return "f64";
    case DType::i32:
      return "i32";
    case DType::i64:
      return "i64";
  }
  return "?";
}

bool is_floating(DType dtype) noexcept { return dtype != DType::i32 && dtype != DType::i64; }

DType dtype_from_string(std::string_view name) {
  static constexpr std::array<std::pair<std::string_view, DType>, 12> kNames{{
      {"f32", DType::f32},
      {"float32", DType::f32},
      {"bf16", DType::bf16},
      {"bfloat16", DType::bf16},
      {"f16", DType::f16},
      {"float16", DType::f16},
      {"f64", DType::f64},
      {"float64", DType::f64},
      {"i32", DType::i32},
      {"int32", DType::i32},
      {"i64", DType::i64},
      {"int64", DType::i64},
  }};
  for (const auto& [known, dtype] : kNames) {
    if (known == name) return dtype;
  }
  fail(ErrorCode::unsupported, "dtype '{}' is not supported (f32, bf16, f16, f64, i32, i64 are)", name);
}

f16::f16(float value) noexcept {
  const auto u = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = (u >> 16) & 0x8000U;
  const std::uint32_t magnitude = u & 0x7fffffffU;
  std::uint32_t half = 0;
  if (magnitude > 0x7f800000U) {
    half = 0x7e00U;  // NaN
  } else if (magnitude >= 0x477ff000U) {
    half = 0x7c00U;  // rounds to infinity
  } else if (magnitude >= 0x38800000U) {
    const std::uint32_t rebased = magnitude - 0x38000000U;  // exponent bias 127 to 15
    half = (rebased + 0x0fffU + ((rebased >> 13) & 1U)) >> 13;
  } else {
    // Subnormal: adding 0.5 (2^-24 units of the last place at that scale) makes the FPU round to nearest even for us.
    const float shifted = std::bit_cast<float>(magnitude) + 0.5F;
    half = std::bit_cast<std::uint32_t>(shifted) - 0x3f000000U;
  }
  bits = static_cast<std::uint16_t>(sign | half);
}

f16::operator float() const noexcept {
  const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x8000U) << 16;
  const std::uint32_t exponent = (bits >> 10) & 0x1fU;
  const std::uint32_t mantissa = bits & 0x3ffU;
  if (exponent == 0) {
    const float value = std::ldexp(static_cast<float>(mantissa), -24);
    return sign != 0 ? -value : value;
  }
  const std::uint32_t rebased = exponent == 31 ? 0xffU : exponent + 112U;
  return std::bit_cast<float>(sign | (rebased << 23) | (mantissa << 13));
}

}  // namespace wick
