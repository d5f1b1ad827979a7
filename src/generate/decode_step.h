#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "wick/generate.h"

namespace wick {

/// The tokens of one sequence, one after the other.
class DecodeStep {
 public:
  virtual ~DecodeStep() = default;
  /// The next token; may be called as often as was agreed on. Error(diverged) for logits of which one is NaN or none
  /// finite.
  virtual std::int32_t next() = 0;
};

/// Reads the prompt, which is not empty, and is ready for `limit` >= 1 tokens behind it. On an accelerator tokens are
/// chosen there, a step is recorded once and replayed, and the next one is queued before the last token is looked at;
/// where there is no kernel for choosing tokens the host does it. The model has to outlive it and stay as it is.
/// Error(invalid_argument) for ids outside the vocabulary and options out of range.
std::unique_ptr<DecodeStep> make_decode_step(const Decoder& model, const GenerateOptions& options,
                                             std::span<const std::int32_t> prompt, std::int64_t limit);

}  // namespace wick
