#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "wick/model.h"
#include "wick/tokenizer.h"

namespace wick {

/// What config.json says of a BERT encoder (Devlin et al. 2019): post-norm layers, learned absolute positions.
struct EncoderConfig {
  std::int64_t vocab_size = 0;
  std::int64_t hidden_size = 0;
  std::int64_t intermediate_size = 0;
  std::int64_t num_hidden_layers = 0;
  std::int64_t num_attention_heads = 0;
  std::int64_t max_position_embeddings = 0;
  std::int64_t type_vocab_size = 0;
  GeluKind activation = GeluKind::exact;
  double layer_norm_eps = 1e-12;

  /// The folder's config.json. Error(io) when it cannot be read, Error(format) for what is malformed,
  /// Error(unsupported) naming what is not computed here.
  static EncoderConfig from_folder(const std::filesystem::path& folder);
};

/// An encoder of the BERT architecture: every token sees every token of its sequence.
class Encoder {
 public:
  /// Reads a Hugging Face folder; names with or without a "bert." prefix, weight and bias of layer norms also by their
  /// old names gamma and beta; a pooler and heads of pre-training are left out. Error(format) naming a tensor that is
  /// missing, unexpected or of another shape than the config says.
  static Encoder load(const std::filesystem::path& folder, const LoadOptions& options = {});
  Encoder(Encoder&&) noexcept;
  Encoder& operator=(Encoder&&) noexcept;
  ~Encoder();

  const EncoderConfig& config() const noexcept;
  DType dtype() const noexcept;
  Device device() const noexcept;

  /// The last layer's hidden states, [tokens, hidden_size], of a packed batch: nothing is padded, and each sequence
  /// sees itself only. Positions count from 0 in each. Error(invalid_argument) for ids outside the vocabulary, or a
  /// position that the model does not have.
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

/// A sentence-embedding model: tokenizer, encoder, pooling and normalization, as a sentence-transformers folder has
/// them (modules.json), or a plain Hugging Face folder, which means the mean over all tokens and no normalization.
class EmbeddingModel {
 public:
  /// Error(unsupported) naming a module or setting that is not computed here.
  static EmbeddingModel load(const std::filesystem::path& folder, const LoadOptions& options = {});

  /// Columns of an embedding.
  std::int64_t dimension() const noexcept;
  /// Tokens that a text is cut to, special ones included.
  std::int64_t max_tokens() const noexcept { return max_tokens_; }
  const Encoder& encoder() const noexcept { return encoder_; }
  /// A text as the encoder reads it, cut to `max_tokens` (0: the model's).
  std::vector<TokenId> tokenize(std::string_view text, std::int64_t max_tokens = 0) const;

  /// The encoder's hidden states, [tokens, hidden_size].
  Tensor forward(const TokenBatch& batch) const { return encoder_.forward(batch); }
  /// One vector for each sequence of a packed batch, on the model's device, after pooling and normalization, f32 (f64
  /// where the model is): [sequences, dimension()]. A tape records it.
  Tensor pooled(const TokenBatch& batch) const;

  /// The encoder's.
  const std::vector<ModuleInfo>& linear_modules() const noexcept { return encoder_.linear_modules(); }
  void attach(std::shared_ptr<const Adapter> adapter, LoraLayout layout = LoraLayout::separate) {
    encoder_.attach(std::move(adapter), layout);
  }
  void detach() { encoder_.detach(); }
  void refresh_adapter() { encoder_.refresh_adapter(); }
  void set_dropout(double p, std::uint64_t seed, std::uint32_t pass) { encoder_.set_dropout(p, seed, pass); }

  /// The embeddings of texts, f32 [texts, dimension()] on the host, in their order. They are computed in batches of up
  /// to `batch_tokens` tokens (fewer on the CPU, where that is faster), of texts of like length. On the CPU, without an
  /// adapter, what else is embedded changes no byte of a result, nor does the number of threads; otherwise it changes a
  /// result by rounding at most.
  Tensor embed(std::span<const std::string> texts, std::int64_t batch_tokens = 8192) const;
  /// The same of texts that are tokens already; none of them empty or longer than max_tokens().
  Tensor embed_tokens(std::span<const std::vector<TokenId>> texts, std::int64_t batch_tokens = 8192) const;

 private:
  EmbeddingModel(Encoder encoder, Tokenizer tokenizer)
      : encoder_(std::move(encoder)), tokenizer_(std::move(tokenizer)) {}

  Encoder encoder_;
  Tokenizer tokenizer_;
  std::vector<Pooling> pooling_;  // side by side
  bool normalize_ = false;
  std::int64_t max_tokens_ = 0;
};

/// The first `columns` of embeddings [texts, n], f32 dense on the host: of length 1 again, a row of zeros left as it is
/// (for models trained so that this keeps their meaning: Kusupati et al. 2022). Error(invalid_argument) unless
/// 1 <= columns <= n.
Tensor truncate_embeddings(const Tensor& embeddings, std::int64_t columns);

}  // namespace wick
