#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <utility>

#include "wick/tensor.h"

namespace wick {

/// Philox 4x32-10 (Salmon et al. 2011): ten rounds over a 128-bit counter under a 64-bit key. Every (counter, key)
/// gives four words of its own, so any part of any stream is computed directly, on any thread, in any order.
std::array<std::uint32_t, 4> philox(std::array<std::uint32_t, 4> counter, std::array<std::uint32_t, 2> key) noexcept;

/// What random numbers are for. The numbers are part of the checkpoint format: never reuse or renumber one.
enum class RandomPurpose : std::uint32_t { initialisation = 0, dropout = 1, shuffle = 2, sampling = 3 };

/// One of 2^32 streams of 2^66 words for each purpose. The seed is Philox's key; its counter is {block low, block high,
/// index, purpose}, so two streams of one seed share no counter and never overlap. By convention:
///   initialisation  index = number of the parameter; element i takes word i
///   dropout         index = number of the dropout module; block = (forward pass << 32) + element / 4
///   shuffle         index = epoch
///   sampling        index = number of the sequence that is generated
struct RandomStream {
  RandomPurpose purpose;
  std::uint32_t index = 0;
};

/// Words 4 * block to 4 * block + 3 of a stream.
inline std::array<std::uint32_t, 4> random_block(std::uint64_t seed, RandomStream stream,
                                                 std::uint64_t block) noexcept {
  return philox({static_cast<std::uint32_t>(block), static_cast<std::uint32_t>(block >> 32), stream.index,
                 static_cast<std::uint32_t>(stream.purpose)},
                {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)});
}

/// The upper 24 bits as a float in [0, 1): every value is exact, 1 is never reached.
inline float unit_float(std::uint32_t word) noexcept { return static_cast<float>(word >> 8) * 0x1p-24F; }

/// Everything that a checkpoint needs to continue a stream: Rng(state) goes on bit for bit.
struct RngState {
  std::uint64_t seed = 0;
  RandomStream stream = {RandomPurpose::sampling, 0};
  std::uint64_t position = 0;  ///< words taken

  bool operator==(const RngState& other) const noexcept {
    return seed == other.seed && stream.purpose == other.stream.purpose && stream.index == other.stream.index &&
           position == other.position;
  }
};

/// Reads one stream in order.
class Rng {
 public:
  explicit Rng(const RngState& state) noexcept : state_(state) {}
  Rng(std::uint64_t seed, RandomStream stream) noexcept : Rng(RngState{seed, stream, 0}) {}

  std::uint32_t word() noexcept;                           ///< takes 1 word
  float uniform() noexcept { return unit_float(word()); }  ///< in [0, 1); takes 1 word
  double uniform_double() noexcept;                        ///< in [0, 1), 53 bits; takes 2 words
  double normal() noexcept;                                ///< mean 0, variance 1 (Box & Muller 1958); takes 4 words
  std::uint64_t below(std::uint64_t limit);                ///< unbiased in [0, limit), limit > 0; takes 2 words or more
  const RngState& state() const noexcept { return state_; }

 private:
  RngState state_;
};

/// Fisher & Yates.
template <class T>
void shuffle(std::span<T> items, Rng& rng) {
  for (std::size_t i = items.size(); i > 1; --i) std::swap(items[i - 1], items[rng.below(i)]);
}

/// Fills a dense floating tensor (f32 on the CPU is filled in place, others are rounded from it) with uniform numbers
/// from low to high (high only by rounding): element i from word i of the stream, counted from `first_block`. The same
/// bytes on any number of threads.
void fill_uniform(const Tensor& tensor, double low, double high, std::uint64_t seed, RandomStream stream,
                  std::uint64_t first_block = 0);

/// He et al. 2015 for a dense f32 weight [out, in], as torch.nn.init.kaiming_uniform_(a=negative_slope): uniform within
/// gain * sqrt(3 / in), gain = sqrt(2 / (1 + negative_slope²)).
void fill_kaiming_uniform(const Tensor& weight, double negative_slope, std::uint64_t seed, RandomStream stream);

}  // namespace wick
