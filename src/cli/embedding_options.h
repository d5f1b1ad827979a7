#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "cli/cli.h"
#include "wick/embedding.h"

namespace wick::cli {

/// Options of the verbs that make embeddings.
struct EmbeddingOptions {
  ModelOptions model;
  std::string adapter;
  std::optional<std::string> prompt;
  std::optional<std::string> prompt_name;
  std::int64_t truncate_dim = 0;

  /// --model, --dtype, --device, --adapter, --prompt, --prompt-name, --truncate-dim
  void add_to(CLI::App& verb);
};

/// A model, with what the command line asks to be done around it.
class PromptedModel {
 public:
  /// With neither --prompt nor --prompt-name, the prompt called `preferred` where the model has one, else its default.
  /// Error(invalid_argument) naming the option.
  PromptedModel(const EmbeddingOptions& options, const std::optional<std::string>& preferred);

  const EmbeddingModel& model() const noexcept { return model_; }
  std::int64_t columns() const noexcept { return columns_; }
  /// Prompt and text as tokens.
  std::vector<TokenId> tokenize(std::string_view text) const {
    return model_.tokenize(model_.with_prompt(prompt_, text));
  }
  /// f32 [texts, columns()] on the host.
  Tensor embed(std::span<const std::vector<TokenId>> texts, std::int64_t batch_tokens) const;

 private:
  EmbeddingModel model_;
  std::string prompt_;
  std::int64_t columns_;
};

}  // namespace wick::cli
