#include <algorithm>
#include <array>
#include <iterator>
#include <optional>
#include <utility>

#include "core/fail.h"
#include "core/rng.h"
#include "io/json.h"
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

// Takes the weights of a BERT file under whichever names it gives them.
class BertWeights {
 public:
  BertWeights(const std::filesystem::path& folder, const LoadOptions& options)
      : reader_(std::in_place, folder, options.dtype, options.device),
        prefix_(reader_->has("bert.embeddings.word_embeddings.weight") ? "bert." : "") {}

  /// Random ones: see Encoder::random.
  BertWeights(const LoadOptions& options, std::uint64_t seed) : options_(options), seed_(seed) {}

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
             name.starts_with("cls.");
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
  std::string prefix_;
  LoadOptions options_;
  std::uint64_t seed_ = 0;
  std::uint32_t number_ = 0;  // of the next random weight
};

EncoderLayer make_layer(BertWeights& weights, const EncoderConfig& c, std::int64_t index) {
  const std::string prefix = fmt::format("encoder.layer.{}.", index);
  const std::string self = prefix + "attention.self.";
  const std::int64_t n = c.hidden_size;
  EncoderLayer layer;
  layer.qkv = AdaptedLinear({weights.projection(self + "query", n, n), weights.projection(self + "key", n, n),
                             weights.projection(self + "value", n, n)});
  layer.output = AdaptedLinear({weights.projection(prefix + "attention.output.dense", n, n)});
  layer.attention_norm = weights.norm(prefix + "attention.output.LayerNorm", n);
  layer.up = AdaptedLinear({weights.projection(prefix + "intermediate.dense", c.intermediate_size, n)});
  layer.down = AdaptedLinear({weights.projection(prefix + "output.dense", n, c.intermediate_size)});
  layer.output_norm = weights.norm(prefix + "output.LayerNorm", n);
  return layer;
}

GeluKind read_activation(const Json& json, const std::string& where) {
  const std::string name = get_or<std::string>(json, "hidden_act", "gelu", where);
  if (name == "gelu") return GeluKind::exact;
  if (name == "gelu_new" || name == "gelu_pytorch_tanh") return GeluKind::tanh;
  fail(ErrorCode::unsupported, "{}: \"hidden_act\" is \"{}\", only gelu, gelu_new and gelu_pytorch_tanh are supported",
       where, name);
}

}  // namespace

EncoderConfig EncoderConfig::from_file(const std::filesystem::path& path) {
  const std::string where = path.string();
  const Json json = read_json_file(path);
  if (const std::string type = get<std::string>(json, "model_type", where); type != "bert") {
    fail(ErrorCode::unsupported, "{}: \"model_type\" is \"{}\", only bert encoders are supported", where, type);
  }
  const std::string positions = get_or<std::string>(json, "position_embedding_type", "absolute", where);
  if (positions != "absolute") {
    fail(ErrorCode::unsupported, "{}: \"position_embedding_type\" is \"{}\", only absolute is supported", where,
         positions);
  }
  for (const char* key : {"is_decoder", "add_cross_attention"}) {
    if (get_or<bool>(json, key, false, where)) {
      fail(ErrorCode::unsupported, "{}: \"{}\" is true, only encoders are supported", where, key);
    }
  }
  if (json.contains("quantization_config") && !json["quantization_config"].is_null()) {
    fail(ErrorCode::unsupported, "{}: \"quantization_config\" is not supported", where);
  }
  EncoderConfig c;
  c.vocab_size = get_positive(json, "vocab_size", where);
  c.hidden_size = get_positive(json, "hidden_size", where);
  c.intermediate_size = get_positive(json, "intermediate_size", where);
  c.num_hidden_layers = get_positive(json, "num_hidden_layers", where);
  c.num_attention_heads = get_positive(json, "num_attention_heads", where);
  c.max_position_embeddings = get_positive(json, "max_position_embeddings", where);
  c.type_vocab_size = get_positive_or(json, "type_vocab_size", 2, where);
  c.activation = read_activation(json, where);
  c.layer_norm_eps = get_or<double>(json, "layer_norm_eps", 1e-12, where);
  if (c.hidden_size % c.num_attention_heads != 0) {
    fail(ErrorCode::format, "{}: \"hidden_size\" {} is no multiple of \"num_attention_heads\" {}", where, c.hidden_size,
         c.num_attention_heads);
  }
  if (!(c.layer_norm_eps > 0)) {
    fail(ErrorCode::format, "{}: \"layer_norm_eps\" is {}, expected a positive number", where, c.layer_norm_eps);
  }
  return c;
}

struct Encoder::Impl {
  EncoderConfig config;
  DType dtype = DType::f32;
  Device device;
  Tensor words;      // [vocab, hidden]
  Tensor positions;  // [max positions, hidden], with the first token type's row already added
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

  Impl(const EncoderConfig& config, const LoadOptions& options, BertWeights& weights);
};

Encoder::Impl::Impl(const EncoderConfig& c, const LoadOptions& options, BertWeights& weights)
    : config(c), dtype(options.dtype), device(options.device) {
  words = weights.take("embeddings.word_embeddings.weight", {c.vocab_size, c.hidden_size});
  const Tensor types = weights.take("embeddings.token_type_embeddings.weight", {c.type_vocab_size, c.hidden_size});
  // A text alone has token type 0 throughout.
  positions = add(weights.take("embeddings.position_embeddings.weight", {c.max_position_embeddings, c.hidden_size}),
                  types.slice(0, 0, 1));
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
  BertWeights weights(folder, options);
  return Encoder(std::make_unique<Impl>(EncoderConfig::from_folder(folder), options, weights));
}

Encoder Encoder::random(const EncoderConfig& config, const LoadOptions& options, std::uint64_t seed) {
  BertWeights weights(options, seed);
  return Encoder(std::make_unique<Impl>(config, options, weights));
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

Tensor Encoder::forward(const TokenBatch& given) const {
  const EncoderConfig& c = impl_->config;
  if (given.longest > c.max_position_embeddings) {
    fail(ErrorCode::invalid_argument, "a sequence of {} tokens, the model has {} positions", given.longest,
         c.max_position_embeddings);
  }
  const TokenBatch batch = given.to(impl_->device);
  const std::int64_t tokens = batch.tokens();
  const std::int64_t head_dim = c.hidden_size / c.num_attention_heads;
  const auto heads = [&](const Tensor& t) { return reshape(t, {tokens, c.num_attention_heads, head_dim}); };
  Tensor x = embedding_norm(impl_->words, batch.ids, impl_->positions, batch.positions, impl_->norm.weight,
                            impl_->norm.bias, c.layer_norm_eps);
  for (const EncoderLayer& layer : impl_->layers) {
    const std::vector<Tensor> qkv = layer.qkv.each(x);
    const Tensor mixed = attention(heads(qkv[0]), heads(qkv[1]), heads(qkv[2]),
                                   {.causal = false, .query_offsets = batch.offsets, .longest = batch.longest});
    x = layer.output.norm(reshape(mixed, {tokens, c.hidden_size}), x, layer.attention_norm.weight,
                          layer.attention_norm.bias, c.layer_norm_eps);
    x = layer.down.norm(layer.up.gelu(x, c.activation), x, layer.output_norm.weight, layer.output_norm.bias,
                        c.layer_norm_eps);
  }
  return x;
}

}  // namespace wick
