#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "wick/adapter.h"
#include "wick/lora.h"
#include "wick/ops.h"
#include "wick/tensor.h"

namespace wick {

enum class Architecture { llama, qwen2, qwen3, mistral };
std::string_view to_string(Architecture architecture) noexcept;  ///< "llama", ...

/// Rotary embedding: inverse frequencies theta^(-2i/d), possibly rescaled.
struct RopeConfig {
  enum class Kind { standard, linear, llama3 };
  Kind kind = Kind::standard;
  double theta = 10000.0;
  double factor = 1.0;                                   ///< linear, llama3: wavelengths are stretched by it
  double low_freq_factor = 1.0;                          ///< llama3
  double high_freq_factor = 4.0;                         ///< llama3
  std::int64_t original_max_position_embeddings = 8192;  ///< llama3
};

/// What config.json says, in the field's names.
struct ModelConfig {
  Architecture architecture = Architecture::llama;
  std::int64_t vocab_size = 0;
  std::int64_t hidden_size = 0;
  std::int64_t intermediate_size = 0;
  std::int64_t num_hidden_layers = 0;
  std::int64_t num_attention_heads = 0;
  std::int64_t num_key_value_heads = 0;
  std::int64_t head_dim = 0;
  std::int64_t max_position_embeddings = 0;
  double rms_norm_eps = 1e-6;
  RopeConfig rope;
  bool qkv_bias = false;
  bool output_bias = false;  ///< of o_proj
  bool mlp_bias = false;
  bool qk_norm = false;  ///< RMS norm of each query and key head (Qwen3)
  bool tie_word_embeddings = false;
  std::vector<std::int64_t> sliding_window;  ///< per layer, in tokens; 0: full attention
  std::vector<std::int32_t> eos_token_ids;   ///< generation_config.json's, else config.json's
  std::optional<std::int32_t> bos_token_id;
  std::optional<std::int32_t> pad_token_id;
  DType dtype = DType::f32;  ///< what the file says that its weights are

  /// Reads config.json and, where it is there, generation_config.json. Error(io), Error(format) naming file and key,
  /// Error(unsupported) naming an architecture or option that this library does not compute exactly.
  static ModelConfig from_folder(const std::filesystem::path& folder);
  /// The same of a config.json alone.
  static ModelConfig from_file(const std::filesystem::path& config);

  /// Parameters of the model, tied ones once.
  std::int64_t parameter_count() const;
};

/// Every linear layer of such a model: "model.layers.0.self_attn.q_proj", ..., and "lm_head" (an output_head).
std::vector<ModuleInfo> linear_modules(const ModelConfig& config);

/// Sequences packed into one batch without padding.
struct TokenBatch {
  Tensor ids;                ///< i32 [tokens]
  Tensor positions;          ///< i32 [tokens], from 0 in each sequence
  Tensor offsets;            ///< i32 [sequences + 1]: where each sequence begins, and the number of tokens
  std::int64_t longest = 0;  ///< tokens of the longest sequence, or more; 0: unknown

  static TokenBatch single(std::span<const std::int32_t> ids, std::int64_t first_position = 0);
  static TokenBatch packed(std::span<const std::vector<std::int32_t>> sequences);
  TokenBatch to(Device device) const { return {ids.to(device), positions.to(device), offsets.to(device), longest}; }
  std::int64_t tokens() const { return ids.size(0); }
};

/// Keys and values of one sequence, written in place; one position for all layers. On an accelerator it stands there as
/// well, where a forward pass reads and moves it: a recorded pass of one token appends the next one with each replay.
class KvCache {
 public:
  KvCache(const ModelConfig& config, std::int64_t capacity, DType dtype, Device device = Device::cpu());

  std::int64_t length() const noexcept { return length_; }
  std::int64_t capacity() const noexcept { return capacity_; }
  void truncate(std::int64_t length);  ///< forgets what lies behind; Error(invalid_argument) beyond length()
  /// Counts `tokens` that the replay of a recorded forward pass appends. Error(invalid_argument) when they do not fit.
  void replayed(std::int64_t tokens);

 private:
  friend class Decoder;
  Tensor begin(std::int64_t tokens);  // key offsets of a pass that appends them
  void check_room(std::int64_t tokens) const;

  std::vector<Tensor> keys_;  // per layer [capacity, kv heads, head_dim]
  std::vector<Tensor> values_;
  Tensor offsets_;  // i32 [2] where the keys are: 0, and where the keys end
  std::int64_t length_ = 0;
  std::int64_t end_ = 0;  // what offsets_[1] is once everything queued has run
  std::int64_t capacity_;
};

struct LoadOptions {
  DType dtype = DType::f32;  ///< of the computation, f32 or bf16, whatever the files hold (f64 for reference answers)
  Device device = Device::cpu();
  bool head = true;  ///< of a Decoder; false: its hidden states are all that is wanted, as of an embedding model
};

/// What the backward pass of a layer makes again instead of keeping it from the forward pass; each includes those
/// before it. Losses and gradients are the same bytes with any.
enum class Recompute : std::uint8_t {
  nothing,
  activations,  ///< norm outputs and SwiGLU products
  gate_up,      ///< and the product of gate_proj and up_proj, the largest tensor of a layer: a matrix product more
  layer,        ///< all but the layer's input: its whole forward pass runs twice
};
std::string_view to_string(Recompute recompute) noexcept;  ///< "nothing", ...

/// A decoder-only language model: Llama, Qwen2, Qwen3 or Mistral.
class Decoder {
 public:
  /// Reads a Hugging Face folder; names with or without a "model." prefix. Weights whose dtype is already the
  /// computation's stay mapped where their layout allows it. Error(format) naming a tensor that is missing, unexpected
  /// or of another shape than the config says. Without its head (LoadOptions::head) lm_head may be missing and is left
  /// out, and linear layers are called as in transformers' base models: "layers.0.self_attn.q_proj", ...
  static Decoder load(const std::filesystem::path& folder, const LoadOptions& options = {});
  /// A model of any shape with random weights (norms: ones), made on its device: for measurements.
  static Decoder random(const ModelConfig& config, const LoadOptions& options, std::uint64_t seed = 0);
  Decoder(Decoder&&) noexcept;
  Decoder& operator=(Decoder&&) noexcept;
  ~Decoder();

  const ModelConfig& config() const noexcept;
  DType dtype() const noexcept;
  Device device() const noexcept;

  /// Hidden states after the final norm, [tokens, hidden_size], of a packed batch, which may still be on the host. With
  /// a cache the batch is one sequence that continues it, at the positions from the cache's length() on.
  /// Error(invalid_argument) for ids outside the vocabulary, a full cache, or other positions beside one.
  Tensor forward(const TokenBatch& batch, KvCache* cache = nullptr) const;
  /// The output head's weight, [vocab_size, hidden_size]: for linear_cross_entropy. Undefined when loaded without.
  const Tensor& head() const noexcept;
  /// hidden [tokens, hidden_size] -> f32 [tokens, vocab_size], never recorded: a loss goes through
  /// linear_cross_entropy. Error(invalid_argument) without a head.
  Tensor logits(const Tensor& hidden) const;
  /// logits(forward(batch, &cache)); for the few tokens of decoding the final norm and the head are one kernel, where a
  /// device has one.
  Tensor next_logits(const TokenBatch& batch, KvCache& cache) const;

  /// linear_modules(config()), or what load() says without a head.
  const std::vector<ModuleInfo>& linear_modules() const noexcept;
  /// The frozen weight [out, in] of a linear layer, by its name. Error(invalid_argument) if there is none.
  Tensor module_weight(std::string_view module) const;

  /// Puts an adapter's values in force; gradients reach its parameters when a tape records. The adapter is kept alive.
  /// Error(invalid_argument) if one of its modules is not a linear layer here.
  void attach(std::shared_ptr<const Adapter> adapter, LoraLayout layout = LoraLayout::separate);
  void detach();
  /// Must be called after the attached adapter's values changed.
  void refresh_adapter();
  /// Dropout on the adapters' inputs in the next forward pass, which is number `pass`; p = 0 (the start) switches it
  /// off.
  void set_dropout(double p, std::uint64_t seed, std::uint32_t pass);
  /// For each layer, from the first. Without: activations on an accelerator, where memory is short and they are cheap;
  /// nothing on the CPU. Error(invalid_argument) unless there are as many as layers.
  void set_recompute(std::span<const Recompute> layers);
  const std::vector<Recompute>& recompute() const noexcept;

 private:
  struct Impl;
  explicit Decoder(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace wick
