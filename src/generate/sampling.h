#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/rng.h"
#include "wick/generate.h"

namespace wick {

// Each works in place on the logits of one position; a token that is ruled out gets -infinity, as in transformers'
// logits processors. No logit may be NaN. Options are expected to be valid and not "off".

/// Every id of `tokens`, which are distinct and inside the vocabulary, is penalised once.
void apply_repetition_penalty(std::span<float> logits, std::span<const std::int32_t> tokens, double penalty);
/// (logit - largest logit) / temperature: the shift changes no probability and keeps small temperatures from
/// overflowing. Needs a finite largest logit.
void apply_temperature(std::span<float> logits, double temperature);
void apply_top_k(std::span<float> logits, std::int64_t k);
void apply_top_p(std::span<float> logits, double p);
void apply_min_p(std::span<float> logits, double p);

/// The largest logit's index, the lowest where there are several. Error(diverged) if one is NaN or none finite.
std::int32_t argmax(std::span<const float> logits);
/// The token in which the uniform number u of [0, 1) falls, tokens taking their softmax probabilities of [0, 1] in the
/// order of their ids. Never one with logit -infinity.
std::int32_t sample(std::span<const float> logits, double u);

/// All of these as the options say, but for the repetition penalty. Takes one random number unless it is greedy.
std::int32_t choose(std::span<float> logits, const SamplingOptions& options, Rng& rng);

/// What a sequence's random numbers are taken from.
inline constexpr RandomStream kSamplingStream = {RandomPurpose::sampling, 0};

/// Error(invalid_argument) for a token outside the vocabulary.
void check_prompt_token(std::int32_t token, std::int64_t vocab_size);

/// Chooses the tokens of one sequence, one after the other.
class Sampler {
 public:
  /// Error(invalid_argument) from options.validate(), or for a prompt id outside the vocabulary.
  Sampler(const SamplingOptions& options, std::uint64_t seed, std::int64_t vocab_size,
          std::span<const std::int32_t> prompt);

  /// The next token, which also joins the tokens that are penalised. Changes the logits.
  std::int32_t next(std::span<float> logits);

 private:
  void note(std::int32_t token);

  SamplingOptions options_;
  Rng rng_;
  std::vector<std::int32_t> tokens_;  // distinct ones of prompt and output, only kept for a penalty
  std::vector<bool> seen_;
};

}  // namespace wick
