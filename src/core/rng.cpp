#include "core/rng.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "backend/backend.h"
#include "core/fail.h"
#include "core/parallel.h"

namespace wick {

std::array<std::uint32_t, 4> philox(std::array<std::uint32_t, 4> counter, std::array<std::uint32_t, 2> key) noexcept {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t a = std::uint64_t{0xD2511F53} * counter[0];
    const std::uint64_t b = std::uint64_t{0xCD9E8D57} * counter[2];
    counter = {static_cast<std::uint32_t>(b >> 32) ^ counter[1] ^ key[0], static_cast<std::uint32_t>(b),
               static_cast<std::uint32_t>(a >> 32) ^ counter[3] ^ key[1], static_cast<std::uint32_t>(a)};
    key = {key[0] + 0x9E3779B9U, key[1] + 0xBB67AE85U};
  }
  return counter;
}

std::uint32_t Rng::word() noexcept {
  const std::uint64_t at = state_.position++;
  return random_block(state_.seed, state_.stream, at / 4)[at % 4];
}

double Rng::uniform_double() noexcept {
  const std::uint64_t low = word();
  const std::uint64_t high = word();
  return static_cast<double>(((high << 32) | low) >> 11) * 0x1p-53;
}

double Rng::normal() noexcept {
  const double radius = std::sqrt(-2 * std::log(1 - uniform_double()));
  return radius * std::cos(2 * std::numbers::pi * uniform_double());
}

std::uint64_t Rng::below(std::uint64_t limit) {
  if (limit == 0) fail(ErrorCode::invalid_argument, "a random number below 0 was asked for");
  const std::uint64_t biased = (0 - limit) % limit;  // 2^64 mod limit: values under it would favour small results
  for (;;) {
    const std::uint64_t low = word();
    const std::uint64_t value = (std::uint64_t{word()} << 32) | low;
    if (value >= biased) return value % limit;
  }
}

void fill_uniform(const Tensor& tensor, double low, double high, std::uint64_t seed, RandomStream stream,
                  std::uint64_t first_block) {
  if (!is_floating(tensor.dtype()) || !tensor.is_contiguous()) {
    fail(ErrorCode::invalid_argument, "random numbers go into dense floating tensors, not {}", describe(tensor));
  }
  if (Backend* device = accelerator(tensor)) {
    return device->fill_uniform(tensor, low, high, {seed, stream.index, static_cast<std::uint32_t>(stream.purpose)},
                                first_block);
  }
  if (tensor.dtype() != DType::f32) {
    const Tensor wide = Tensor::empty(tensor.shape(), DType::f32);
    fill_uniform(wide, low, high, seed, stream, first_block);
    return tensor.copy_from(wide);
  }
  float* out = tensor.data<float>();
  const std::int64_t count = tensor.numel();
  const float width = static_cast<float>(high - low);
  const float start = static_cast<float>(low);
  parallel_for((count + 3) / 4, 4096, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t block = begin; block < end; ++block) {
      const auto words = random_block(seed, stream, first_block + static_cast<std::uint64_t>(block));
      const std::int64_t last = std::min(count, block * 4 + 4);
      for (std::int64_t i = block * 4; i < last; ++i) {
        out[i] = start + width * unit_float(words[static_cast<std::size_t>(i % 4)]);
      }
    }
  });
}

void fill_kaiming_uniform(const Tensor& weight, double negative_slope, std::uint64_t seed, RandomStream stream) {
  if (weight.rank() != 2 || weight.size(1) == 0) {
    fail(ErrorCode::invalid_argument, "kaiming initialisation needs a weight [out, in], not {}", describe(weight));
  }
  const double bound = std::sqrt(6 / ((1 + negative_slope * negative_slope) * static_cast<double>(weight.size(1))));
  fill_uniform(weight, -bound, bound, seed, stream);
}

}  // namespace wick
