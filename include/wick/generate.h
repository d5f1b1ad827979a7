#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "wick/model.h"
#include "wick/tokenizer.h"

namespace wick {

/// How the next token is chosen from its logits, in the order that transformers uses: repetition penalty, temperature,
/// top-k, top-p, min-p. Probabilities are those after the steps before.
struct SamplingOptions {
  /// Logits are divided by it (>= 0). 0 is greedy: the most probable token, the lowest id where several are, and only
  /// the repetition penalty has a say.
  double temperature = 0.0;
  /// Keeps the k most probable tokens (>= 0), and with them those as probable as the k-th. 0, or the vocabulary's size
  /// and more: all.
  std::int64_t top_k = 0;
  /// Keeps the fewest most probable tokens that reach this probability together, at least one; of equally probable
  /// ones the lower ids first. In (0, 1], 1: all. Holtzman et al. 2020.
  double top_p = 1.0;
  /// Keeps tokens at least this many times as probable as the most probable one. In [0, 1], 0: all. Nguyen et al. 2024.
  double min_p = 0.0;
  /// Divides the positive and multiplies the negative logits of every token of the prompt and the output, once however
  /// often it occurs. > 0, 1: none. Keskar et al. 2019.
  double repetition_penalty = 1.0;

  /// Error(invalid_argument) naming the first option that is out of its range.
  void validate() const;
};

struct GenerateOptions {
  std::int64_t max_tokens = 100;  ///< new tokens, >= 0
  SamplingOptions sampling = {};
  std::uint64_t seed = 0;                      ///< the same seed, model and prompt give the same tokens
  bool ignore_eos = false;                     ///< go on after the model's end-of-sequence tokens
  std::vector<std::int32_t> stop_tokens = {};  ///< end as eos does, also with ignore_eos
  std::vector<std::string> stop_strings = {};  ///< end where the first of them is complete; none may be empty
  bool skip_special_tokens = true;             ///< leave them out of the text
  std::int64_t prefill_chunk = 512;            ///< tokens of the prompt in one forward, >= 1: bounds memory

  /// Error(invalid_argument) naming the first option that is out of its range.
  void validate() const;
};

enum class FinishReason {
  length,       ///< max_tokens were made, or prompt and output fill the model's context
  eos,          ///< one of the model's end-of-sequence tokens
  stop_token,   ///< one of the options' stop tokens
  stop_string,  ///< one of the options' stop strings
  interrupted,  ///< the callback said so
};
std::string_view to_string(FinishReason reason) noexcept;  ///< "length", "eos", ...

struct GenerateResult {
  /// The new tokens, with the eos or stop token, or the token that completed a stop string, as the last one.
  std::vector<std::int32_t> ids;
  /// The pieces that the callback was given, joined: without eos, stop token and stop string, and without what is
  /// behind a stop string. Empty without a tokenizer.
  std::string text;
  FinishReason finish_reason = FinishReason::length;
  std::int64_t prompt_tokens = 0;
  double prefill_seconds = 0;  ///< until the prompt was read
  double decode_seconds = 0;   ///< from there to the end
};

/// Called once for each new token with the text that became certain through it, whole characters: often a word, nothing
/// while a character or a possible stop string is incomplete, with the last token all the rest. False ends generation.
using GenerateCallback = std::function<bool(std::string_view new_text, std::int32_t id)>;

/// Continues a prompt token by token, with a KV cache. An empty prompt stands for the model's bos token. Prompt and
/// output together are at most max_position_embeddings tokens: generation ends there with FinishReason::length.
/// `tokenizer` may be null when only ids are wanted. Nothing is recorded on a Tape.
/// Error(invalid_argument) for options out of range, ids outside the vocabulary, a prompt longer than the context, an
/// empty one where the model has no bos token, stop strings without a tokenizer; Error(diverged) for logits of which
/// one is NaN or none finite.
GenerateResult generate(const Decoder& model, const Tokenizer* tokenizer, std::span<const std::int32_t> prompt_ids,
                        const GenerateOptions& options, const GenerateCallback& callback = {});

}  // namespace wick
