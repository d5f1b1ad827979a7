#include "wick/generate.h"

#include <algorithm>
#include <chrono>
#include <memory>
#include <optional>

#include "core/fail.h"
#include "generate/decode_step.h"
#include "generate/stop_strings.h"
#include "wick/autograd.h"

namespace wick {
namespace {

bool contains(const std::vector<std::int32_t>& ids, std::int32_t id) {
  return std::find(ids.begin(), ids.end(), id) != ids.end();
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Tokens to text: decoding, then stop strings.
class TextStream {
 public:
  TextStream(const Tokenizer* tokenizer, const GenerateOptions& options, std::span<const std::int32_t> prompt)
      : stops_(options.stop_strings) {
    if (tokenizer == nullptr) return;
    decoder_.emplace(*tokenizer, options.skip_special_tokens);
    decoder_->follow(prompt);  // a space between the prompt and the first new word belongs to the text
  }
  std::string push(std::int32_t id) { return decoder_ ? stops_.push(decoder_->push(id)) : std::string(); }
  std::string finish() {
    if (!decoder_ || stops_.found()) return {};
    std::string rest = stops_.push(decoder_->finish());
    return stops_.found() ? rest : rest + stops_.finish();
  }
  bool stopped() const { return stops_.found(); }

 private:
  std::optional<DecodeStream> decoder_;
  StopStrings stops_;
};

}  // namespace

std::string_view to_string(FinishReason reason) noexcept {
  switch (reason) {
    case FinishReason::length:
      return "length";
    case FinishReason::eos:
      return "eos";
    case FinishReason::stop_token:
      return "stop_token";
    case FinishReason::stop_string:
      return "stop_string";
    case FinishReason::interrupted:
      return "interrupted";
  }
  return "unknown";
}

void GenerateOptions::validate() const {
  sampling.validate();
  if (max_tokens < 0) fail(ErrorCode::invalid_argument, "max_tokens is {}, expected at least 0", max_tokens);
  if (prefill_chunk < 1) fail(ErrorCode::invalid_argument, "prefill_chunk is {}, expected at least 1", prefill_chunk);
  for (const std::string& string : stop_strings) {
    if (string.empty()) fail(ErrorCode::invalid_argument, "a stop string is empty");
  }
}

GenerateResult generate(const Decoder& model, const Tokenizer* tokenizer, std::span<const std::int32_t> prompt_ids,
                        const GenerateOptions& options, const GenerateCallback& callback) {
  options.validate();
  const ModelConfig& config = model.config();
  if (tokenizer == nullptr && !options.stop_strings.empty()) {
    fail(ErrorCode::invalid_argument, "stop strings need a tokenizer");
  }
  std::vector<std::int32_t> prompt(prompt_ids.begin(), prompt_ids.end());
  if (prompt.empty()) {
    if (!config.bos_token_id) {
      fail(ErrorCode::invalid_argument, "the prompt is empty, and the model has no bos token to begin with");
    }
    prompt.push_back(*config.bos_token_id);
  }
  const std::int64_t context = config.max_position_embeddings;
  if (std::ssize(prompt) > context) {
    fail(ErrorCode::invalid_argument, "the prompt has {} tokens, the model's context {} (max_position_embeddings)",
         prompt.size(), context);
  }

  const NoGrad no_grad;
  GenerateResult result;
  result.prompt_tokens = std::ssize(prompt);
  const std::int64_t limit = std::min(options.max_tokens, context - result.prompt_tokens);
  if (limit == 0) return result;
  TextStream text(tokenizer, options, prompt);
  auto start = std::chrono::steady_clock::now();
  const std::unique_ptr<DecodeStep> step = make_decode_step(model, options, prompt, limit);
  result.prefill_seconds = seconds_since(start);
  start = std::chrono::steady_clock::now();
  for (;;) {
    const std::int32_t id = step->next();
    result.ids.push_back(id);
    std::optional<FinishReason> finish;
    std::string piece;
    if (!options.ignore_eos && contains(config.eos_token_ids, id)) {
      finish = FinishReason::eos;
    } else if (contains(options.stop_tokens, id)) {
      finish = FinishReason::stop_token;
    } else {
      piece = text.push(id);
      if (!text.stopped() && std::ssize(result.ids) == limit) finish = FinishReason::length;
    }
    if (finish) piece += text.finish();
    if (text.stopped()) finish = FinishReason::stop_string;
    result.text += piece;
    if (callback && !callback(piece, id) && !finish) finish = FinishReason::interrupted;
    if (finish) {
      result.finish_reason = *finish;
      break;
    }
  }
  result.decode_seconds = seconds_since(start);
  return result;
}

}  // namespace wick
