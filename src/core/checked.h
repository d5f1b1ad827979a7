#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <utility>

#include "core/fail.h"

namespace wick {

/// A size, count or offset whose arithmetic cannot wrap: every + - * that leaves [0, 2^63) throws Error(format), so a
/// hostile header can never make a small allocation look large enough. Sizes read from files enter through it and are
/// only taken out with value() once they have been checked against what is really there.
class CheckedSize {
 public:
  constexpr CheckedSize() = default;

  template <std::integral T>
  constexpr CheckedSize(T value) : value_(static_cast<std::uint64_t>(value)) {  // NOLINT: implicit on purpose
    if constexpr (std::is_signed_v<T>) {
      if (value < 0) overflow();
    }
    if (value_ > kMax) overflow();
  }

  constexpr std::size_t value() const { return static_cast<std::size_t>(value_); }
  constexpr std::int64_t as_signed() const { return static_cast<std::int64_t>(value_); }

  friend constexpr CheckedSize operator+(CheckedSize a, CheckedSize b) { return CheckedSize(a.value_ + b.value_); }
  friend constexpr CheckedSize operator-(CheckedSize a, CheckedSize b) {
    if (b.value_ > a.value_) overflow();
    return CheckedSize(a.value_ - b.value_);
  }
  friend constexpr CheckedSize operator*(CheckedSize a, CheckedSize b) {
    std::uint64_t product = 0;
    if (__builtin_mul_overflow(a.value_, b.value_, &product)) overflow();
    return CheckedSize(product);
  }
  /// Rounded up to a multiple of `alignment` (which must not be 0).
  constexpr CheckedSize aligned_to(CheckedSize alignment) const {
    const std::uint64_t rest = value_ % alignment.value_;
    return rest == 0 ? *this : *this + CheckedSize(alignment.value_ - rest);
  }
  friend constexpr auto operator<=>(CheckedSize, CheckedSize) = default;

 private:
  static constexpr std::uint64_t kMax = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());

  [[noreturn]] static void overflow() { throw Error(ErrorCode::format, "a size is negative or larger than 2^63"); }

  std::uint64_t value_ = 0;
};

}  // namespace wick
