#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "wick/model.h"
#include "wick/tokenizer.h"

namespace wick {

/// BERT (Devlin et al. 2019) and what is computed like it: RoBERTa (Liu et al. 2019), XLM-RoBERTa (Conneau et al. 2020)
/// and MPNet (Song et al. 2020), which adds a relative position bias to attention.
enum class EncoderArchitecture { bert, roberta, xlm_roberta, mpnet };
std::string_view to_string(EncoderArchitecture architecture) noexcept;  ///< as in "model_type": "xlm-roberta", ...

/// What config.json says of an encoder: post-norm layers, learned absolute positions.
struct EncoderConfig {
  EncoderArchitecture architecture = EncoderArchitecture::bert;
  std::int64_t vocab_size = 0;
  std::int64_t hidden_size = 0;
  std::int64_t intermediate_size = 0;
  std::int64_t num_hidden_layers = 0;
  std::int64_t num_attention_heads = 0;
  std::int64_t max_position_embeddings = 0;
  std::int64_t type_vocab_size = 0;                 ///< 0: no token types (MPNet)
  std::int64_t relative_attention_num_buckets = 0;  ///< 0: no relative position bias (all but MPNet)
  /// Positions up to this one belong to padding, a text's begin behind it; none (BERT): they begin at 0.
  std::optional<std::int32_t> pad_token_id;
  GeluKind activation = GeluKind::exact;
  double layer_norm_eps = 1e-12;

  /// A config.json. Error(io) when it cannot be read, Error(format) for what is malformed, Error(unsupported) naming
  /// what is not computed here.
  static EncoderConfig from_file(const std::filesystem::path& path);
  static EncoderConfig from_folder(const std::filesystem::path& folder) { return from_file(folder / "config.json"); }

  /// The position of a text's first token.
  std::int64_t first_position() const noexcept { return pad_token_id ? *pad_token_id + std::int64_t{1} : 0; }
  /// The most tokens that a text may have.
  std::int64_t max_tokens() const noexcept { return max_position_embeddings - first_position(); }
};

/// An encoder of one of these architectures: every token sees every token of its sequence.
class Encoder {
 public:
  /// Reads a Hugging Face folder; names with or without a "bert.", "roberta." or "mpnet." prefix, weight and bias of
  /// layer norms also by their old names gamma and beta; a pooler and heads of pre-training are left out. Error(format)
  /// naming a tensor that is missing, unexpected or of another shape than the config says.
  static Encoder load(const std::filesystem::path& folder, const LoadOptions& options = {});
  /// A model of this shape with small random weights, made on the device: for benchmarks.
  static Encoder random(const EncoderConfig& config, const LoadOptions& options = {}, std::uint64_t seed = 0);
  Encoder(Encoder&&) noexcept;
  Encoder& operator=(Encoder&&) noexcept;
  ~Encoder();

  const EncoderConfig& config() const noexcept;
  DType dtype() const noexcept;
  Device device() const noexcept;

  /// The last layer's hidden states, [tokens, hidden_size], of a packed batch: nothing is padded, and each sequence
  /// sees itself only. Positions count from 0 in each. A padding token that is part of a text stands outside the count
  /// (but for BERT), as in transformers; in a batch that is on a device nobody looks for one. Error(invalid_argument)
  /// for ids outside the vocabulary, or a position that the model does not have.
  Tensor forward(const TokenBatch& batch) const;

  /// Every linear layer, named as in PEFT's adapters of the bare model ("encoder.layer.0.attention.self.query", ...),
  /// and the pooler's, which no hidden state depends on.
  const std::vector<ModuleInfo>& linear_modules() const noexcept;
  /// These as Decoder's.
  void attach(std::shared_ptr<const Adapter> adapter, LoraLayout layout = LoraLayout::separate);
  void detach();
  void refresh_adapter();
  void set_dropout(double p, std::uint64_t seed, std::uint32_t pass);

 private:
  struct Impl;
  explicit Encoder(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

class DenseModule;

/// A sentence-embedding model: tokenizer, Encoder or Decoder, pooling, dense layers and normalization, as a
/// sentence-transformers folder of versions 2 to 6 has them (modules.json), or a plain Hugging Face folder, which means
/// the mean over all tokens and no normalization.
class EmbeddingModel {
 public:
  /// Error(unsupported) naming a module or setting that is not computed here.
  static EmbeddingModel load(const std::filesystem::path& folder, const LoadOptions& options = {});

  /// Columns of an embedding.
  std::int64_t dimension() const noexcept { return dimension_; }
  /// Tokens that a text is cut to, special ones included.
  std::int64_t max_tokens() const noexcept { return max_tokens_; }
  DType dtype() const noexcept;
  Device device() const noexcept;
  /// The texts that the model wants before its inputs, by name ("query", "document"); often none.
  const std::map<std::string, std::string>& prompts() const noexcept { return prompts_; }
  /// One of them. Error(invalid_argument) naming those that there are.
  const std::string& prompt(const std::string& name) const;
  /// The name of the one to use where nobody says otherwise.
  const std::optional<std::string>& default_prompt() const noexcept { return default_prompt_; }
  /// The text to tokenize or embed: nothing below adds a prompt by itself. Error(unsupported) for a prompt of a model
  /// that leaves prompts out of its pooling.
  std::string with_prompt(std::string_view prompt, std::string_view text) const;
  /// A text as the model reads it, cut to `max_tokens` (0: the model's).
  std::vector<TokenId> tokenize(std::string_view text, std::int64_t max_tokens = 0) const;

  /// The transformer's hidden states of a packed batch, [tokens, hidden size], in its dtype and on its device.
  Tensor forward(const TokenBatch& batch) const;
  /// One vector for each sequence of a packed batch, on the model's device, after pooling and all that follows it, f32
  /// (f64 where the model is): [sequences, dimension()]. A tape records it.
  Tensor pooled(const TokenBatch& batch) const;

  /// The transformer's.
  const std::vector<ModuleInfo>& linear_modules() const noexcept;
  void attach(std::shared_ptr<const Adapter> adapter, LoraLayout layout = LoraLayout::separate);
  void detach();
  void refresh_adapter();
  void set_dropout(double p, std::uint64_t seed, std::uint32_t pass);

  /// The embeddings of texts, f32 [texts, dimension()] on the host, in their order. They are computed in batches of up
  /// to `batch_tokens` tokens (fewer on the CPU, where that is faster), of texts of like length. What else is embedded
  /// changes no byte of a result, nor does the number of threads (on a device all but f64, which it changes by
  /// rounding).
  Tensor embed(std::span<const std::string> texts, std::int64_t batch_tokens = 65536) const;
  /// The same of texts that are tokens already; none of them empty or longer than max_tokens().
  Tensor embed_tokens(std::span<const std::vector<TokenId>> texts, std::int64_t batch_tokens = 65536) const;

 private:
  using Transformer = std::variant<Encoder, Decoder>;
  EmbeddingModel(Transformer transformer, Tokenizer tokenizer)
      : transformer_(std::move(transformer)), tokenizer_(std::move(tokenizer)) {}

  std::int64_t hidden_size() const noexcept;

  Transformer transformer_;
  Tokenizer tokenizer_;
  std::vector<Pooling> pooling_;                           // side by side
  std::vector<std::shared_ptr<const DenseModule>> steps_;  // after the pooling; null: to length 1
  std::int64_t dimension_ = 0;
  std::int64_t max_tokens_ = 0;
  std::map<std::string, std::string> prompts_;
  std::optional<std::string> default_prompt_;
  bool pools_prompt_ = true;
};

/// The first `columns` of embeddings [texts, n], f32 dense on the host: of length 1 again, a row of zeros left as it is
/// (for models trained so that this keeps their meaning: Kusupati et al. 2022). Error(invalid_argument) unless
/// 1 <= columns <= n.
Tensor truncate_embeddings(const Tensor& embeddings, std::int64_t columns);

}  // namespace wick
