#pragma once

#include <cstdint>
#include <span>

#include "ops/kernel_table.h"
#include "wick/generate.h"

namespace wick {

/// What sampling keeps on a device between the tokens of one sequence, and changes there.
struct SamplingState {
  SamplingOptions options;
  std::uint64_t seed = 0;
  Tensor seen;      ///< i32 [vocab / 32, rounded up]: a bit for each token of prompt and output; undefined: no penalty
  Tensor position;  ///< i64 [1]: random words taken
  Tensor scaled;    ///< f32 [vocab]: scratch
};

/// id (i32, one element) = the next token after `logits` (f32 [vocab], dense), or -1 where one is NaN or the largest is
/// not finite. Never waits: it may be recorded and replayed.
using SampleToken = Declined(const SamplingState& state, const Tensor& logits, const Tensor& id);

extern Kernels<SampleToken> sample_token_kernels;

SampleToken sample_token_cpu;

/// Sampler (sampling.h) where the logits are: the same options, order of steps and random words, so the same tokens,
/// but where a random number falls within float32's rounding of a boundary between two of them.
class DeviceSampler {
 public:
  /// Error(invalid_argument) as Sampler, Error(unsupported) for a device or vocabulary that no kernel takes.
  DeviceSampler(const SamplingOptions& options, std::uint64_t seed, std::int64_t vocab_size,
                std::span<const std::int32_t> prompt, Device device);

  /// Queues the choice of the next token into `id`, i32 of one element on the device; -1 says that the model has
  /// diverged. logits f32, [vocab] or [1, vocab], are left as they are. A recorded call chooses anew with each replay.
  void next(const Tensor& logits, const Tensor& id);

 private:
  SamplingState state_;
};

}  // namespace wick
