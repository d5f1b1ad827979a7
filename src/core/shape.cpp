#include "wick/shape.h"

#include <algorithm>

#include "core/fail.h"

namespace wick {

Dims::Dims(std::span<const std::int64_t> values) {
  for (const std::int64_t value : values) push_back(value);
}

int Dims::wrap(int i) const {
  const int wrapped = i < 0 ? i + rank_ : i;
  if (wrapped < 0 || wrapped >= rank_) {
    fail(ErrorCode::invalid_argument, "dimension {} of a tensor with {} dimensions", i, rank_);
  }
  return wrapped;
}

void Dims::push_back(std::int64_t value) { insert(rank_, value); }

void Dims::insert(int at, std::int64_t value) {
  if (rank_ == kMaxRank) fail(ErrorCode::invalid_argument, "a tensor has at most {} dimensions", kMaxRank);
  if (at < 0 || at > rank_) fail(ErrorCode::invalid_argument, "cannot insert dimension {} of {}", at, rank_);
  std::copy_backward(values_.begin() + at, values_.begin() + rank_, values_.begin() + rank_ + 1);
  values_[static_cast<std::size_t>(at)] = value;
  ++rank_;
}

void Dims::erase(int at) {
  at = wrap(at);
  std::copy(values_.begin() + at + 1, values_.begin() + rank_, values_.begin() + at);
  --rank_;
}

bool Dims::operator==(const Dims& other) const noexcept {
  return std::equal(begin(), end(), other.begin(), other.end());
}

std::int64_t numel(const Shape& shape) {
  std::int64_t product = 1;
  bool empty = false;
  for (const std::int64_t extent : shape) {
    if (extent < 0) fail(ErrorCode::invalid_argument, "shape {} has a negative extent", to_string(shape));
    if (extent == 0) {
      empty = true;
    } else if (__builtin_mul_overflow(product, extent, &product) || product > (std::int64_t{1} << 62)) {
      fail(ErrorCode::invalid_argument, "shape {} has too many elements", to_string(shape));
    }
  }
  return empty ? 0 : product;
}

Strides contiguous_strides(const Shape& shape) {
  Strides strides = shape;
  std::int64_t step = 1;
  for (int i = shape.rank() - 1; i >= 0; --i) {
    strides[i] = step;
    step *= std::max<std::int64_t>(shape[i], 1);
  }
  return strides;
}

std::string to_string(const Dims& dims) { return fmt::format("[{}]", fmt::join(dims.begin(), dims.end(), ", ")); }

Shape broadcast(const Shape& a, const Shape& b) {
  const int rank = std::max(a.rank(), b.rank());
  Shape result;
  for (int i = -rank; i < 0; ++i) {
    const std::int64_t x = -i <= a.rank() ? a[i] : 1;
    const std::int64_t y = -i <= b.rank() ? b[i] : 1;
    if (x != y && x != 1 && y != 1) {
      fail(ErrorCode::invalid_argument, "shapes {} and {} do not broadcast", to_string(a), to_string(b));
    }
    result.push_back(x == 1 ? y : x);
  }
  return result;
}

}  // namespace wick
