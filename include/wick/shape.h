#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>

namespace wick {

/// The extents (or the strides) of a tensor: up to six signed 64-bit numbers held in place.
class Dims {
 public:
  static constexpr int kMaxRank = 6;

  Dims() = default;
  Dims(std::initializer_list<std::int64_t> values) : Dims(std::span(values.begin(), values.size())) {}
  explicit Dims(std::span<const std::int64_t> values);  ///< Error(invalid_argument) beyond six

  int rank() const noexcept { return rank_; }
  /// Element i; negative i counts from the end. Error(invalid_argument) out of range.
  std::int64_t& operator[](int i) { return values_[static_cast<std::size_t>(wrap(i))]; }
  std::int64_t operator[](int i) const { return values_[static_cast<std::size_t>(wrap(i))]; }
  /// i in [-rank, rank) made non-negative. Error(invalid_argument) otherwise.
  int wrap(int i) const;

  const std::int64_t* begin() const noexcept { return values_.data(); }
  const std::int64_t* end() const noexcept { return values_.data() + rank_; }

  void push_back(std::int64_t value);
  void insert(int at, std::int64_t value);  ///< before element `at` (0 <= at <= rank)
  void erase(int at);

  bool operator==(const Dims& other) const noexcept;

 private:
  std::array<std::int64_t, kMaxRank> values_{};
  int rank_ = 0;
};

using Shape = Dims;
using Strides = Dims;

/// The number of elements. Error(invalid_argument) if an extent is negative or the product passes 2^62.
std::int64_t numel(const Shape& shape);
/// Row-major strides, in elements.
Strides contiguous_strides(const Shape& shape);
/// "[2, 3]"
std::string to_string(const Dims& dims);
/// The shape of an elementwise result (NumPy broadcasting). Error(invalid_argument) naming both shapes.
Shape broadcast(const Shape& a, const Shape& b);

}  // namespace wick
