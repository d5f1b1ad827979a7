#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "wick/embedding.h"

namespace wick {

/// Dense of a sentence-transformers folder: activation(x weightᵀ + bias) of pooled vectors.
class DenseModule {
 public:
  /// Reads config.json and model.safetensors of the module's folder; weights become f32 (f64 where options.dtype is
  /// that) on options.device. Error(unsupported) naming a setting that is not computed here, or weights that are no
  /// safetensors; Error(format) for what is malformed.
  static DenseModule load(const std::filesystem::path& folder, const LoadOptions& options);

  std::int64_t in_features() const { return weight_.size(1); }
  std::int64_t out_features() const { return weight_.size(0); }
  /// x [rows, in_features] of the weights' dtype, on their device -> [rows, out_features]. A tape records it.
  Tensor operator()(const Tensor& x) const;

 private:
  enum class Activation : std::uint8_t { identity, tanh, gelu, relu };
  static Activation read_activation(const std::string& path, const std::string& where);

  Tensor weight_, bias_;
  Activation activation_ = Activation::tanh;
};

/// What a sentence-embedding folder says of itself, in the files of sentence-transformers 2 to 6: modules.json and the
/// configuration of each module that it names.
struct EmbeddingModules {
  std::filesystem::path encoder;  ///< the folder of the transformer and its tokenizer
  std::vector<Pooling> pooling;   ///< side by side
  /// Of the hidden states, where the pooling says it.
  std::optional<std::int64_t> width;
  bool include_prompt = true;  ///< in the pooling
  /// What follows the pooling, in order.
  struct Step {
    std::optional<std::filesystem::path> dense;  ///< a DenseModule's folder; nothing: to length 1
  };
  std::vector<Step> steps;
  std::optional<std::int64_t> max_tokens;  ///< that a text is cut to; the encoder may allow fewer
  bool lower_case = false;                 ///< before the tokenizer's own normalizer
  std::map<std::string, std::string> prompts;
  std::optional<std::string> default_prompt;  ///< a name in `prompts`
};

/// Without modules.json: a plain Hugging Face folder, of which the mean over all tokens is taken.
/// Error(unsupported) naming a module or setting that is not computed here; Error(format) for what is malformed.
EmbeddingModules read_embedding_modules(const std::filesystem::path& folder);

/// The folder's tokenizer.json, which cuts nothing by itself; with `lower_case`, in front of its own normalizer, a
/// Lowercase, unless it has one.
Tokenizer load_embedding_tokenizer(const std::filesystem::path& folder, bool lower_case);

}  // namespace wick
