#include <algorithm>
#include <array>
#include <bit>
#include <iterator>
#include <optional>
#include <utility>

#include "core/fail.h"
#include "core/rng.h"
#include "models/weights.h"
#include "nn/adapted_linear.h"
#include "wick/embedding.h"

namespace wick {
namespace {

struct LayerNorm {
  Tensor weight, bias;
};

// norm(x + attention(x)), then norm(that + mlp(that)).
struct EncoderLayer {
  AdaptedLinear qkv, output;
  LayerNorm attention_norm;
  AdaptedLinear up, down;
  LayerNorm output_norm;

  std::array<AdaptedLinear*, 4> linears() { return {&qkv, &output, &up, &down}; }
};

// What files call the parts of a layer's attention.
struct AttentionNames {
  const char *query, *key, *value, *output, *norm;
};
constexpr AttentionNames kBertAttention = {"attention.self.query", "attention.self.key", "attention.self.value",
                                           "attention.output.dense", "attention.output.LayerNorm"};
constexpr AttentionNames kMpnetAttention = {"attention.attn.q", "attention.attn.k", "attention.attn.v",
                                            "attention.attn.o", "attention.LayerNorm"};

struct Names {
  const char* prefix;  // of the encoder's names beside a head's
  const char* head;    // of a head of pre-training
  AttentionNames attention;
};

Names names_of(EncoderArchitecture architecture) {
  switch (architecture) {
    case EncoderArchitecture::bert:
      break;
    case EncoderArchitecture::roberta:
    case EncoderArchitecture::xlm_roberta:
      return {"roberta.", "lm_head.", kBertAttention};
    case EncoderArchitecture::mpnet:
      return {"mpnet.", "lm_head.", kMpnetAttention};
  }
  return {"bert.", "cls.", kBertAttention};
}

// Takes the weights of an encoder's files under whichever names they give them.
class EncoderWeights {
 public:
  EncoderWeights(const std::filesystem::path& folder, const LoadOptions& options, EncoderArchitecture architecture)
      : reader_(std::in_place, folder, options.dtype, options.device),
        names_(names_of(architecture)),
        prefix_(reader_->has(std::string(names_.prefix) + "embeddings.word_embeddings.weight") ? names_.prefix : "") {}
  /// Random ones: see Encoder::random.
  EncoderWeights(const LoadOptions& options, EncoderArchitecture architecture, std::uint64_t seed)
      : names_(names_of(architecture)), options_(options), seed_(seed) {}

  const AttentionNames& attention() const { return names_.attention; }
  Tensor take(const std::string& name, const Shape& shape) {
    return reader_ ? reader_->take(prefix_ + name, shape) : random(name, shape);
  }
  LayerNorm norm(const std::string& name, std::int64_t size) {
    const bool old = reader_ && reader_->has(prefix_ + name + ".gamma");  // as TensorFlow's checkpoints call them
    return {take(name + (old ? ".gamma" : ".weight"), {size}), take(name + (old ? ".beta" : ".bias"), {size})};
  }
  AdaptedLinear::Projection projection(const std::string& name, std::int64_t out, std::int64_t in) {
    return {name, take(name + ".weight", {out, in}), take(name + ".bias", {out})};
  }
  void finish() const {
    if (!reader_) return;
    reader_->finish([&](const std::string& name) {
      return name == prefix_ + "embeddings.position_ids" || name.starts_with(prefix_ + "pooler.") ||
             name.starts_with(names_.head);
    });
  }

 private:
  Tensor random(const std::string& name, const Shape& shape) {
    const bool norm = name.ends_with("LayerNorm.weight");
    if (norm || name.ends_with("bias")) return Tensor::full(shape, norm ? 1.0 : 0.0, options_.dtype, options_.device);
    const Tensor weight = Tensor::empty(shape, options_.dtype, options_.device);
    constexpr double kBound = 0.035;  // a deviation of 0.02, as models are initialised
    fill_uniform(weight, -kBound, kBound, seed_, {RandomPurpose::initialisation, number_++});
    return weight;
  }

  std::optional<WeightReader> reader_;
  Names names_;
  std::string prefix_;
  LoadOptions options_;
  std::uint64_t seed_ = 0;
  std::uint32_t number_ = 0;  // of the next random weight
};

EncoderLayer make_layer(EncoderWeights& weights, const EncoderConfig& c, std::int64_t index) {
  const std::string prefix = fmt::format("encoder.layer.{}.", index);
  const AttentionNames& names = weights.attention();
  const std::int64_t n = c.hidden_size;
  const auto square = [&](const char* name) { return weights.projection(prefix + name, n, n); };
  EncoderLayer layer;
  layer.qkv = AdaptedLinear({square(names.query), square(names.key), square(names.value)});
  layer.output = AdaptedLinear({square(names.output)});
  layer.attention_norm = weights.norm(prefix + names.norm, n);
  layer.up = AdaptedLinear({weights.projection(prefix + "intermediate.dense", c.intermediate_size, n)});
  layer.down = AdaptedLinear({weights.projection(prefix + "output.dense", n, c.intermediate_size)});
  layer.output_norm = weights.norm(prefix + "output.LayerNorm", n);
  for (AdaptedLinear* each : {&layer.qkv, &layer.output, &layer.up, &layer.down}) each->pack();
  return layer;
}

// [positions (+ 1), hidden]: a text's from its first token on, with what else every token gets; behind them that of
// padding, where there is one.
Tensor make_positions(EncoderWeights& weights, const EncoderConfig& c) {
  Tensor table = weights.take("embeddings.position_embeddings.weight", {c.max_position_embeddings, c.hidden_size});
  if (c.pad_token_id) {
    const Tensor parts[] = {table.slice(0, c.first_position(), c.max_tokens()), table.slice(0, *c.pad_token_id, 1)};
    table = concat(parts, 0);
  }
  if (c.type_vocab_size == 0) return table;
  // A text alone has token type 0 throughout.
  const Tensor types = weights.take("embeddings.token_type_embeddings.weight", {c.type_vocab_size, c.hidden_size});
  return add(table, types.slice(0, 0, 1));
}

// T5's buckets of distances key - query (Raffel et al. 2020), half of them for keys that come after the query: one
// for each distance below 8, then two for each doubling; the last is of all distances from 91 on.
constexpr std::int64_t kReach = 91;
std::int32_t bucket_of(std::int64_t distance) {
  const auto n = static_cast<std::uint64_t>(distance < 0 ? -distance : distance);
  const auto magnitude = n < 8 ? static_cast<int>(n) : std::min(static_cast<int>(std::bit_width(n * n)) + 1, 15);
  return (distance > 0 ? 16 : 0) + magnitude;
}

// AttentionOptions::bias, the same in all layers.
Tensor make_bias(EncoderWeights& weights, const EncoderConfig& c) {
  if (c.relative_attention_num_buckets == 0) return {};
  const Tensor of_buckets =
      weights.take("encoder.relative_attention_bias.weight", {c.relative_attention_num_buckets, c.num_attention_heads});
  std::vector<std::int32_t> buckets;
  for (std::int64_t distance = -kReach; distance <= kReach; ++distance) buckets.push_back(bucket_of(distance));
  const Tensor at = Tensor::from(buckets, {std::ssize(buckets)}).to(of_buckets.device());
  const Tensor bias = gather_rows(of_buckets, at).transpose(0, 1).contiguous();
  return bias.dtype() == DType::f64 ? bias : bias.to(DType::f32);
}

}  // namespace

struct Encoder::Impl {
  Impl(const EncoderConfig& config, const LoadOptions& options, EncoderWeights weights);

  EncoderConfig config;
  DType dtype = DType::f32;
  Device device;
  Tensor words;      // [vocab, hidden]
  Tensor positions;  // see make_positions
  Tensor bias;       // [heads, 2 kReach + 1]; undefined: none
  LayerNorm norm;
  std::vector<EncoderLayer> layers;
  std::vector<ModuleInfo> modules;
  std::shared_ptr<const Adapter> adapter;
  LoraRefresh refresh;

  std::vector<AdaptedLinear*> linears() {
    std::vector<AdaptedLinear*> all;
    for (EncoderLayer& layer : layers) std::ranges::copy(layer.linears(), std::back_inserter(all));
    return all;
  }

  Tensor positions_of(const TokenBatch& batch) const;
};

Encoder::Impl::Impl(const EncoderConfig& c, const LoadOptions& options, EncoderWeights weights)
    : config(c), dtype(options.dtype), device(options.device) {
  words = weights.take("embeddings.word_embeddings.weight", {c.vocab_size, c.hidden_size});
  positions = make_positions(weights, c);
  bias = make_bias(weights, c);
  norm = weights.norm("embeddings.LayerNorm", c.hidden_size);
  for (std::int64_t i = 0; i < c.num_hidden_layers; ++i) layers.push_back(make_layer(weights, c, i));
  weights.finish();
  for (const AdaptedLinear* linear : linears()) std::ranges::move(linear->modules(), std::back_inserter(modules));
  modules.push_back({"pooler.dense", c.hidden_size, c.hidden_size, ModuleKind::unused});
}

Encoder::Encoder(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Encoder::Encoder(Encoder&&) noexcept = default;
Encoder& Encoder::operator=(Encoder&&) noexcept = default;
Encoder::~Encoder() = default;

const EncoderConfig& Encoder::config() const noexcept { return impl_->config; }
DType Encoder::dtype() const noexcept { return impl_->dtype; }
Device Encoder::device() const noexcept { return impl_->device; }

Encoder Encoder::load(const std::filesystem::path& folder, const LoadOptions& options) {
  const EncoderConfig config = EncoderConfig::from_folder(folder);
  return Encoder(std::make_unique<Impl>(config, options, EncoderWeights(folder, options, config.architecture)));
}

Encoder Encoder::random(const EncoderConfig& config, const LoadOptions& options, std::uint64_t seed) {
  return Encoder(std::make_unique<Impl>(config, options, EncoderWeights(options, config.architecture, seed)));
}

const std::vector<ModuleInfo>& Encoder::linear_modules() const noexcept { return impl_->modules; }

void Encoder::attach(std::shared_ptr<const Adapter> adapter, LoraLayout layout) {
  impl_->refresh = attach_adapter(impl_->linears(), adapter.get(), layout);
  impl_->adapter = std::move(adapter);
}

void Encoder::detach() {
  impl_->refresh = attach_adapter(impl_->linears(), nullptr, LoraLayout::separate);
  impl_->adapter = nullptr;
}

void Encoder::refresh_adapter() { impl_->refresh.run(); }

void Encoder::set_dropout(double p, std::uint64_t seed, std::uint32_t pass) {
  set_adapter_dropout(impl_->linears(), p, seed, pass);
}

// Rows of `positions`. A padding token inside of a text (someone wrote <pad>) has the padding's and is not counted.
Tensor Encoder::Impl::positions_of(const TokenBatch& batch) const {
  if (!config.pad_token_id || batch.ids.device().type != DeviceType::cpu) return batch.positions;
  const std::vector<std::int32_t> ids = batch.ids.to_vector<std::int32_t>();
  const std::vector<std::int32_t> offsets = batch.offsets.to_vector<std::int32_t>();
  std::vector<std::int32_t> rows = batch.positions.to_vector<std::int32_t>();
  const auto outside = [&](std::int32_t at) { return at < 0 || std::cmp_greater(at, ids.size()); };
  if (rows.size() != ids.size() || std::ranges::any_of(offsets, outside)) return batch.positions;  // ops refuse these
  const auto last = static_cast<std::int32_t>(config.max_tokens()) - 1;
  for (std::size_t s = 0; s + 1 < offsets.size(); ++s) {
    std::int32_t paddings = 0;
    for (auto i = static_cast<std::size_t>(offsets[s]); i < static_cast<std::size_t>(offsets[s + 1]); ++i) {
      if (rows[i] < 0 || rows[i] > last) {
        fail(ErrorCode::invalid_argument, "token {} has position {}, the model has 0 to {}", i, rows[i], last);
      }
      const bool padding = ids[i] == *config.pad_token_id;
      rows[i] = padding ? last + 1 : rows[i] - paddings;
      if (padding) ++paddings;
    }
  }
  return Tensor::from(rows, batch.positions.shape());
}

Tensor Encoder::forward(const TokenBatch& given) const {
  const EncoderConfig& c = impl_->config;
  if (given.longest > c.max_tokens()) {
    fail(ErrorCode::invalid_argument, "a sequence of {} tokens, the model has {} positions", given.longest,
         c.max_tokens());
  }
  const TokenBatch batch = given.to(impl_->device);
  const Tensor positions = impl_->positions_of(given).to(impl_->device);
  const std::int64_t tokens = batch.tokens();
  const std::int64_t head_dim = c.hidden_size / c.num_attention_heads;
  const auto heads = [&](const Tensor& t) { return reshape(t, {tokens, c.num_attention_heads, head_dim}); };
  Tensor x = embedding_norm(impl_->words, batch.ids, impl_->positions, positions, impl_->norm.weight, impl_->norm.bias,
                            c.layer_norm_eps);
  for (const EncoderLayer& layer : impl_->layers) {
    const std::vector<Tensor> qkv = layer.qkv.each(x);
    const Tensor mixed =
        attention(heads(qkv[0]), heads(qkv[1]), heads(qkv[2]),
                  {.causal = false, .query_offsets = batch.offsets, .longest = batch.longest, .bias = impl_->bias});
    x = layer.output.norm(reshape(mixed, {tokens, c.hidden_size}), x, layer.attention_norm.weight,
                          layer.attention_norm.bias, c.layer_norm_eps);
    x = layer.down.norm(layer.up.gelu(x, c.activation), x, layer.output_norm.weight, layer.output_norm.bias,
                        c.layer_norm_eps);
  }
  return x;
}

}  // namespace wick
