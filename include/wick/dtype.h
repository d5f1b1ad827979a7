#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace wick {

/// Element types. f64 exists for reference answers and gradient checks; models compute in f32 or bf16.
enum class DType : std::uint8_t { f32, bf16, f16, f64, i32, i64 };

std::size_t size_of(DType dtype) noexcept;         ///< bytes of one element
std::string_view to_string(DType dtype) noexcept;  ///< "f32", "bf16", ...
bool is_floating(DType dtype) noexcept;            ///< f32, bf16, f16, f64
DType dtype_from_string(std::string_view name);  ///< "f32", "float32", "bf16", "bfloat16", ...; else Error(unsupported)

/// bfloat16: the upper half of a float32. Converts from float by rounding to nearest, ties to even; NaN stays NaN.
struct bf16 {
  std::uint16_t bits = 0;

  bf16() = default;
  explicit bf16(float value) noexcept {
    const auto u = std::bit_cast<std::uint32_t>(value);
    if ((u & 0x7fffffffU) > 0x7f800000U) {
      bits = static_cast<std::uint16_t>((u >> 16) | 0x40U);  // quiet NaN, payload truncated
    } else {
      bits = static_cast<std::uint16_t>((u + 0x7fffU + ((u >> 16) & 1U)) >> 16);
    }
  }
  explicit operator float() const noexcept { return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16); }
};

/// IEEE 754 binary16. Converts from float by rounding to nearest, ties to even; overflow becomes infinity.
struct f16 {
  std::uint16_t bits = 0;

  f16() = default;
  explicit f16(float value) noexcept;
  explicit operator float() const noexcept;
};

template <class T>
struct DTypeOf;
template <>
struct DTypeOf<float> {
  static constexpr DType value = DType::f32;
};
template <>
struct DTypeOf<bf16> {
  static constexpr DType value = DType::bf16;
};
template <>
struct DTypeOf<f16> {
  static constexpr DType value = DType::f16;
};
template <>
struct DTypeOf<double> {
  static constexpr DType value = DType::f64;
};
template <>
struct DTypeOf<std::int32_t> {
  static constexpr DType value = DType::i32;
};
template <>
struct DTypeOf<std::int64_t> {
  static constexpr DType value = DType::i64;
};
template <class T>
inline constexpr DType dtype_of = DTypeOf<T>::value;

}  // namespace wick
