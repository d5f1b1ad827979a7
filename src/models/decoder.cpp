#include <algorithm>
#include <array>
#include <functional>
#include <iterator>
#include <mutex>
#include <utility>

#include "backend/backend.h"
#include "backend/gemm.h"
#include "core/fail.h"
#include "core/rng.h"
#include "models/rope_table.h"
#include "models/weights.h"
#include "nn/adapted_linear.h"
#include "ops/fused_linear/fused_linear.h"
#include "ops/op.h"
#include "wick/model.h"

namespace wick {
namespace {

// One transformer block: x + attention(norm(x)), then that + mlp(norm(that)).
struct Layer {
  Tensor input_norm;
  AdaptedLinear qkv;
  Tensor q_norm, k_norm;  // undefined without qk_norm
  AdaptedLinear output;
  Tensor post_attention_norm;
  AdaptedLinear gate_up;
  AdaptedLinear down;
  std::int64_t window = 0;

  std::array<AdaptedLinear*, 4> linears() { return {&qkv, &output, &gate_up, &down}; }
};

// Gives the weight of that name, without a "model." before it, and shape.
using TakeWeight = std::function<Tensor(const std::string& name, const Shape& shape)>;

// `outer` stands before the names of the linear layers.
Layer make_layer(const TakeWeight& take, const ModelConfig& c, const std::string& outer, std::int64_t index) {
  const std::string prefix = fmt::format("layers.{}.", index);
  const auto projection = [&](const std::string& name, std::int64_t out, std::int64_t in, bool bias) {
    return AdaptedLinear::Projection{outer + prefix + name, take(prefix + name + ".weight", {out, in}),
                                     bias ? take(prefix + name + ".bias", {out}) : Tensor()};
  };
  const std::int64_t q = c.num_attention_heads * c.head_dim;
  const std::int64_t kv = c.num_key_value_heads * c.head_dim;
  Layer layer;
  layer.input_norm = take(prefix + "input_layernorm.weight", {c.hidden_size});
  layer.qkv = AdaptedLinear({projection("self_attn.q_proj", q, c.hidden_size, c.qkv_bias),
                             projection("self_attn.k_proj", kv, c.hidden_size, c.qkv_bias),
                             projection("self_attn.v_proj", kv, c.hidden_size, c.qkv_bias)});
  if (c.qk_norm) {
    layer.q_norm = take(prefix + "self_attn.q_norm.weight", {c.head_dim});
    layer.k_norm = take(prefix + "self_attn.k_norm.weight", {c.head_dim});
  }
  layer.output = AdaptedLinear({projection("self_attn.o_proj", c.hidden_size, q, c.output_bias)});
  layer.post_attention_norm = take(prefix + "post_attention_layernorm.weight", {c.hidden_size});
  layer.gate_up = AdaptedLinear({projection("mlp.gate_proj", c.intermediate_size, c.hidden_size, c.mlp_bias),
                                 projection("mlp.up_proj", c.intermediate_size, c.hidden_size, c.mlp_bias)});
  layer.down = AdaptedLinear({projection("mlp.down_proj", c.hidden_size, c.intermediate_size, c.mlp_bias)});
  layer.window = c.sliding_window[static_cast<std::size_t>(index)];
  return layer;
}

}  // namespace

std::string_view to_string(Recompute recompute) noexcept {
  switch (recompute) {
    case Recompute::nothing:
      return "nothing";
    case Recompute::activations:
      return "activations";
    case Recompute::gate_up:
      return "gate_up";
    case Recompute::layer:
      return "layer";
  }
  return "?";
}

TokenBatch TokenBatch::packed(std::span<const std::vector<std::int32_t>> sequences) {
  std::vector<std::int32_t> ids;
  std::vector<std::int32_t> positions;
  std::vector<std::int32_t> offsets = {0};
  std::int64_t longest = 0;
  for (const std::vector<std::int32_t>& sequence : sequences) {
    longest = std::max(longest, std::ssize(sequence));
    ids.insert(ids.end(), sequence.begin(), sequence.end());
    for (std::size_t i = 0; i < sequence.size(); ++i) positions.push_back(static_cast<std::int32_t>(i));
    offsets.push_back(static_cast<std::int32_t>(ids.size()));
  }
  const auto vector = [](const std::vector<std::int32_t>& v) {
    return Tensor::from(v, {static_cast<std::int64_t>(v.size())});
  };
  return {vector(ids), vector(positions), vector(offsets), longest};
}

TokenBatch TokenBatch::single(std::span<const std::int32_t> ids, std::int64_t first_position) {
  const std::vector<std::int32_t> sequence(ids.begin(), ids.end());
  TokenBatch batch = packed(std::span(&sequence, 1));
  for (std::int64_t i = 0; i < batch.tokens(); ++i) {
    batch.positions.data<std::int32_t>()[i] = static_cast<std::int32_t>(first_position + i);
  }
  return batch;
}

namespace {

// How many positions the rope table must have for a batch without a cache. On a device the batch is not looked at: its
// positions lie within it.
std::int64_t positions_in(const TokenBatch& batch) {
  if (batch.positions.device().type != DeviceType::cpu) return batch.tokens();
  std::int64_t positions = 0;
  for (std::int64_t i = 0; i < batch.tokens(); ++i) {
    positions = std::max<std::int64_t>(positions, batch.positions.data<std::int32_t>()[i] + std::int64_t{1});
  }
  return positions;
}

void check_continues(const TokenBatch& batch, const KvCache& cache) {
  if (batch.offsets.size(0) != 2)
    fail(ErrorCode::invalid_argument, "a cache holds one sequence, the batch {}", batch.offsets.size(0) - 1);
  if (batch.positions.device().type != DeviceType::cpu) return;
  for (std::int64_t i = 0; i < batch.tokens(); ++i) {
    const std::int64_t position = batch.positions.data<std::int32_t>()[i];
    if (position == cache.length() + i) continue;
    fail(ErrorCode::invalid_argument, "token {} of a batch that continues a cache of {} has position {}, expected {}",
         i, cache.length(), position, cache.length() + i);
  }
}

// What one layer hands to the next: the residual stream, and its norm by the next one's weight (after the last layer,
// the final norm's). `again` makes x from `hidden`, where it is not to be kept.
struct Between {
  Tensor hidden;
  Tensor x;
  AdaptedLinear::Again again;
};

}  // namespace

struct Decoder::Impl {
  Impl(const ModelConfig& config_, const LoadOptions& options)
      : config(config_), dtype(options.dtype), device(options.device), has_head(options.head) {
    if (dtype != DType::f32 && dtype != DType::bf16 && dtype != DType::f64) {
      fail(ErrorCode::unsupported, "computation in {} is not supported (f32 and bf16 are)", to_string(dtype));
    }
  }
  void build(const TakeWeight& take);

  ModelConfig config;
  DType dtype = DType::f32;
  Device device;
  bool has_head;
  Tensor embeddings;  // [vocab, hidden]
  std::vector<Layer> layers;
  Tensor final_norm;
  Tensor head;  // [vocab, hidden]; the embeddings themselves when tied; undefined without
  std::mutex rope_mutex;
  // Each reaches further than the one before; recorded passes go on reading those that they began with.
  std::vector<RopeTable> ropes;
  std::vector<ModuleInfo> modules;
  std::shared_ptr<const Adapter> adapter;
  LoraRefresh refresh;
  std::vector<Recompute> recompute;  // of each layer

  std::vector<AdaptedLinear*> linears() {
    std::vector<AdaptedLinear*> all;
    for (Layer& layer : layers) std::ranges::copy(layer.linears(), std::back_inserter(all));
    return all;
  }
  RopeTable rope_table(std::int64_t positions);
  // The norm before layer i, or after the last.
  const Tensor& norm_before(std::size_t i) const { return i < layers.size() ? layers[i].input_norm : final_norm; }
  std::int64_t border_before(std::size_t i) const { return i < layers.size() ? layers[i].qkv.border() : 0; }
  AdaptedLinear::Again norm_again(std::size_t i, const Tensor& hidden, const Tensor& weight, std::int64_t border) const;
  AdaptedLinear::Again input_again(std::size_t i, const Tensor& hidden) const;
  Between enter(const Tensor& ids) const;
  // Activations are taken by value and let go after their last reader, so that not a whole layer's are there at once.
  Between run_layer(std::size_t i, Between in, const TokenBatch& batch, const RopeTable& table,
                    const Tensor& key_offsets, KvCache* cache) const;
  Tensor feed_forward(const Layer& layer, Recompute level, Tensor x, const AdaptedLinear::Again& again) const;
  Tensor attend(const Layer& layer, std::size_t index, Tensor x, const AdaptedLinear::Again& again,
                const TokenBatch& batch, const RopeTable& table, const Tensor& key_offsets, KvCache* cache) const;
  Tensor attend_cached(const Layer& layer, std::size_t index, const Tensor& qkv, const TokenBatch& batch,
                       const RopeTable& table, const Tensor& key_offsets, const KvCache& cache, bool at_rest) const;
  TokenBatch checked(const TokenBatch& given, const KvCache* cache) const;
  Tensor forward_few(const TokenBatch& batch, KvCache& cache);
};

Decoder::Decoder(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Decoder::Decoder(Decoder&&) noexcept = default;
Decoder& Decoder::operator=(Decoder&&) noexcept = default;
Decoder::~Decoder() = default;

const ModelConfig& Decoder::config() const noexcept { return impl_->config; }
DType Decoder::dtype() const noexcept { return impl_->dtype; }
Device Decoder::device() const noexcept { return impl_->device; }
const Tensor& Decoder::head() const noexcept { return impl_->head; }
const std::vector<ModuleInfo>& Decoder::linear_modules() const noexcept { return impl_->modules; }

void Decoder::Impl::build(const TakeWeight& take) {
  const std::string outer = has_head ? "model." : "";
  embeddings = take("embed_tokens.weight", {config.vocab_size, config.hidden_size});
  for (std::int64_t i = 0; i < config.num_hidden_layers; ++i) layers.push_back(make_layer(take, config, outer, i));
  final_norm = take("norm.weight", {config.hidden_size});
  modules = wick::linear_modules(config);
  if (has_head) {
    head = config.tie_word_embeddings ? embeddings : take("lm_head.weight", {config.vocab_size, config.hidden_size});
  } else {
    std::erase_if(modules, [](const ModuleInfo& module) { return module.kind == ModuleKind::output_head; });
    for (ModuleInfo& module : modules) module.name.erase(0, std::string_view("model.").size());
  }
  recompute.assign(layers.size(), device.type == DeviceType::cpu ? Recompute::nothing : Recompute::activations);
}

Decoder Decoder::load(const std::filesystem::path& folder, const LoadOptions& options) {
  auto impl = std::make_unique<Impl>(ModelConfig::from_folder(folder), options);
  WeightReader reader(folder, options.dtype, options.device);
  const std::string kHead = "lm_head.weight";
  const std::string prefix = reader.has("embed_tokens.weight") ? "" : "model.";
  impl->build([&](const std::string& name, const Shape& shape) {
    return reader.take(name == kHead ? name : prefix + name, shape);
  });
  if (options.head && impl->config.tie_word_embeddings) reader.take_copy(kHead, prefix + "embed_tokens.weight");
  reader.finish([&](const std::string& name) {
    return name.ends_with("rotary_emb.inv_freq") || (!options.head && name == kHead);
  });
  if (!options.head) {  // no text that is embedded then depends on those beside it
    for (AdaptedLinear* linear : impl->linears()) linear->pack();
  }
  if (impl->device.type != DeviceType::cpu) backend(impl->device).trim(impl->device);  // what only loading needed
  return Decoder(std::move(impl));
}

Decoder Decoder::random(const ModelConfig& config, const LoadOptions& options, std::uint64_t seed) {
  auto impl = std::make_unique<Impl>(config, options);
  std::uint32_t number = 0;
  impl->build([&](const std::string& name, const Shape& shape) {
    if (name.ends_with("norm.weight")) return Tensor::full(shape, 1.0, options.dtype, options.device);
    const Tensor weight = Tensor::empty(shape, options.dtype, options.device);
    constexpr double kBound = 0.035;  // a deviation of 0.02, as models are initialised
    fill_uniform(weight, -kBound, kBound, seed, {RandomPurpose::initialisation, number++});
    return weight;
  });
  return Decoder(std::move(impl));
}

RopeTable Decoder::Impl::rope_table(std::int64_t positions) {
  const std::scoped_lock lock(rope_mutex);
  if (ropes.empty() || ropes.back().cos.size(0) < positions) {
    std::int64_t size = 256;
    while (size < positions) size *= 2;
    ropes.push_back(make_rope_table(config.rope, config.head_dim, size, dtype, device));
  }
  return ropes.back();
}

Tensor Decoder::Impl::attend(const Layer& layer, std::size_t index, Tensor x, const AdaptedLinear::Again& again,
                             const TokenBatch& batch, const RopeTable& table, const Tensor& key_offsets,
                             KvCache* cache) const {
  const Tensor projected = layer.qkv(x, again);
  x = {};
  if (cache != nullptr) {
    return layer.output(attend_cached(layer, index, projected, batch, table, key_offsets, *cache, false));
  }
  const std::int64_t tokens = batch.tokens();
  const std::int64_t heads = config.num_attention_heads;
  const std::int64_t kv_heads = config.num_key_value_heads;
  const std::int64_t all[] = {heads + kv_heads, kv_heads};
  const std::int64_t turned[] = {heads, kv_heads};
  const auto turn = [&](const Tensor& t) { return rope_(t, table.cos, table.sin, batch.positions); };
  // The projections side by side; queries and keys are turned where they lie, together where nothing stands between.
  const Tensor qkv = reshape(projected, {tokens, heads + 2 * kv_heads, config.head_dim});
  std::vector<Tensor> parts = split(qkv, 1, all);
  std::vector<Tensor> qk = split(layer.q_norm.defined() ? parts[0] : turn(parts[0]), 1, turned);
  if (layer.q_norm.defined()) {
    qk[0] = turn(rms_norm(qk[0], layer.q_norm, config.rms_norm_eps));
    qk[1] = turn(rms_norm(qk[1], layer.k_norm, config.rms_norm_eps));
  }
  const Tensor y = attention(qk[0], qk[1], parts[1],
                             {.window = layer.window, .query_offsets = batch.offsets, .longest = batch.longest});
  return layer.output(reshape(y, {tokens, config.num_attention_heads * config.head_dim}));
}

// Attention of tokens that go into the cache, at_rest as in attention_append(), between qkv [tokens, (heads + 2 kv
// heads) head_dim] and the output projection.
Tensor Decoder::Impl::attend_cached(const Layer& layer, std::size_t index, const Tensor& qkv, const TokenBatch& batch,
                                    const RopeTable& table, const Tensor& key_offsets, const KvCache& cache,
                                    bool at_rest) const {
  const std::int64_t tokens = batch.tokens();
  const std::int64_t heads = config.num_attention_heads;
  const std::int64_t kv_heads = config.num_key_value_heads;
  const auto part = [&](std::int64_t first, std::int64_t count) {
    return reshape(slice(qkv, 1, first * config.head_dim, count * config.head_dim), {tokens, count, config.head_dim});
  };
  Tensor q = part(0, heads);
  Tensor k = part(heads, kv_heads);
  if (layer.q_norm.defined()) {
    q = rms_norm(q, layer.q_norm, config.rms_norm_eps);
    k = rms_norm(k, layer.k_norm, config.rms_norm_eps);
  }
  // A pass of few tokens may be recorded on a device: what is used of the cache then only the offsets say.
  const bool whole = device.type != DeviceType::cpu && tokens <= kFewTokens;
  const std::int64_t rows = whole ? cache.capacity_ : cache.length_ + tokens;
  const Tensor y =
      attention_append(q, k, part(heads + kv_heads, kv_heads), table.cos, table.sin,
                       cache.keys_[index].slice(0, 0, rows), cache.values_[index].slice(0, 0, rows),
                       {.window = layer.window, .query_offsets = batch.offsets, .key_offsets = key_offsets}, at_rest);
  return reshape(y, {tokens, heads * config.head_dim});
}

// The forward pass of decoding, up to the final norm: a few tokens behind a cache, bound by reading weights. Five
// kernels a layer where every op has one.
Tensor Decoder::Impl::forward_few(const TokenBatch& batch, KvCache& cache) {
  const NoGrad no_grad;
  const RopeTable table = rope_table(cache.capacity_);
  const Tensor key_offsets = cache.begin(batch.tokens());
  // Weights may be fetched before the kernels ahead have ended, since they are at rest: what wrote them (loading,
  // attach(), refresh_adapter()) was queued before this pass, and the embedding, the first kernel here, lets nothing
  // behind it begin until all before it has ended. In a recording it is a node among those that are replayed, and a
  // replay begins after what was queued before it. The pass itself writes no weight. So it is with the offsets, which
  // KvCache::begin() has moved, and with the keys and values of earlier passes.
  constexpr bool kAtRest = true;
  const double eps = config.rms_norm_eps;
  Tensor hidden = embedding(embeddings, batch.ids);
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const Layer& layer = layers[i];
    const Tensor qkv = layer.qkv.fused(hidden, {.norm = layer.input_norm, .eps = eps, .at_rest = kAtRest});
    const Tensor mixed = attend_cached(layer, i, qkv, batch, table, key_offsets, cache, kAtRest);
    hidden = layer.output.fused(mixed, {.residual = hidden, .at_rest = kAtRest});
    const Tensor activated = layer.gate_up.fused(hidden, {.norm = layer.post_attention_norm,
                                                          .eps = eps,
                                                          .swiglu = true,
                                                          .border = layer.down.border(),
                                                          .at_rest = kAtRest});
    hidden = layer.down.fused(activated, {.residual = hidden, .at_rest = kAtRest});
  }
  cache.length_ += batch.tokens();
  return hidden;
}

// Makes a norm in layer i again; empty where its output is kept.
AdaptedLinear::Again Decoder::Impl::norm_again(std::size_t i, const Tensor& hidden, const Tensor& weight,
                                               std::int64_t border) const {
  if (recompute[i] == Recompute::nothing) return {};
  return [hidden = hidden.detach(), weight, eps = config.rms_norm_eps, border] {
    return rms_norm(hidden, weight, eps, border);
  };
}

// The same of the norm before layer i; behind the last one stands the final norm, which nobody makes again.
AdaptedLinear::Again Decoder::Impl::input_again(std::size_t i, const Tensor& hidden) const {
  return i < layers.size() ? norm_again(i, hidden, norm_before(i), border_before(i)) : AdaptedLinear::Again();
}

Between Decoder::Impl::enter(const Tensor& ids) const {
  const Tensor hidden = embedding(embeddings, ids);
  const Tensor x = rms_norm(hidden, norm_before(0), config.rms_norm_eps, border_before(0));
  return {hidden, x, input_again(0, hidden)};
}

Tensor Decoder::Impl::feed_forward(const Layer& layer, Recompute level, Tensor x,
                                   const AdaptedLinear::Again& again) const {
  const std::int64_t border = layer.down.border();
  if (level == Recompute::gate_up) {
    const auto product = [&layer, border](std::span<const Tensor> in) {
      const std::vector<Tensor> parts = layer.gate_up.each(in[0]);
      return std::vector<Tensor>{swiglu(parts[0], parts[1], border)};
    };
    const Checkpointed part = checkpoint(product, std::span(&x, 1), {again});
    return layer.down(part.outputs[0], part.again ? AdaptedLinear::Again([all = part.again] { return all(0); })
                                                  : AdaptedLinear::Again());
  }
  const std::vector<Tensor> parts = layer.gate_up.each(x, again);
  x = {};
  const auto activate = [gate = parts[0].detach(), up = parts[1].detach(), border] { return swiglu(gate, up, border); };
  return layer.down(swiglu(parts[0], parts[1], border),
                    level == Recompute::nothing ? AdaptedLinear::Again() : AdaptedLinear::Again(activate));
}

Between Decoder::Impl::run_layer(std::size_t i, Between in, const TokenBatch& batch, const RopeTable& table,
                                 const Tensor& key_offsets, KvCache* cache) const {
  const Layer& layer = layers[i];
  const double eps = config.rms_norm_eps;
  Tensor branch = attend(layer, i, std::move(in.x), in.again, batch, table, key_offsets, cache);
  const std::int64_t border = layer.gate_up.border();
  auto [middle, y] = rms_norm_residual(branch, in.hidden, layer.post_attention_norm, eps, border);
  branch = {};
  const AdaptedLinear::Again again = norm_again(i, middle, layer.post_attention_norm, border);
  branch = feed_forward(layer, recompute[i], std::move(y), again);
  const auto [hidden, x] = rms_norm_residual(branch, middle, norm_before(i + 1), eps, border_before(i + 1));
  return {hidden, x, input_again(i + 1, hidden)};
}

// On the model's device.
TokenBatch Decoder::Impl::checked(const TokenBatch& given, const KvCache* cache) const {
  if (cache != nullptr && adapter != nullptr && Tape::active() != nullptr) {
    fail(ErrorCode::invalid_argument, "a forward pass with a cache cannot be recorded: keys and values are copied");
  }
  TokenBatch batch = given.to(device);
  if (batch.positions.shape() != batch.ids.shape() || !batch.positions.is_contiguous()) {
    fail(ErrorCode::invalid_argument, "a batch has ids {} and positions {}, expected dense vectors of one length",
         describe(batch.ids), describe(batch.positions));
  }
  if (cache != nullptr) check_continues(given, *cache);
  return batch;
}

Tensor Decoder::forward(const TokenBatch& given, KvCache* cache) const {
  const TokenBatch batch = impl_->checked(given, cache);
  const std::int64_t tokens = batch.tokens();
  if (cache != nullptr && tokens <= kFewTokens) {
    const Tensor hidden = impl_->forward_few(batch, *cache);
    const NoGrad no_grad;
    return rms_norm(hidden, impl_->final_norm, impl_->config.rms_norm_eps);
  }
  const RopeTable table = impl_->rope_table(cache != nullptr ? cache->capacity_ : positions_in(given));
  const Tensor key_offsets = cache != nullptr ? cache->begin(tokens) : Tensor();

  Between at = impl_->enter(batch.ids);
  for (std::size_t i = 0; i < impl_->layers.size(); ++i) {
    const auto run = [impl = impl_.get(), i, batch, table, key_offsets, cache](Between in) {
      return impl->run_layer(i, std::move(in), batch, table, key_offsets, cache);
    };
    if (impl_->recompute[i] != Recompute::layer || cache != nullptr) {
      at = run(std::move(at));
      continue;
    }
    const Tensor inputs[] = {at.hidden, at.x};
    const Checkpointed part = checkpoint(
        [run](std::span<const Tensor> in) {
          const Between out = run({in[0], in[1], {}});
          return std::vector<Tensor>{out.hidden, out.x};
        },
        inputs, {{}, at.again});
    at = {part.outputs[0], part.outputs[1], impl_->input_again(i + 1, part.outputs[0])};
  }
  if (cache != nullptr) cache->length_ += tokens;
  return at.x;
}

Tensor Decoder::logits(const Tensor& hidden) const {
  if (!impl_->has_head) fail(ErrorCode::invalid_argument, "the model was loaded without its output head");
  if (hidden.dtype() == DType::f64) return linear(hidden, impl_->head).to(DType::f32);
  // Straight to f32: rounding to bf16 in between would move close candidates.
  const Tensor y = Tensor::empty({hidden.size(0), impl_->head.size(0)}, DType::f32, impl_->device);
  gemm(hidden.detach(), impl_->head.transpose(0, 1), y);
  return y;
}

Tensor Decoder::next_logits(const TokenBatch& given, KvCache& cache) const {
  const bool fused = impl_->has_head && fused_enabled() && fused_linear_forward.on(impl_->device.type) != nullptr;
  if (!fused || given.tokens() > kFewTokens) return logits(forward(given, &cache));
  const TokenBatch batch = impl_->checked(given, &cache);
  const NoGrad no_grad;
  const Tensor hidden = impl_->forward_few(batch, cache);
  const Tensor y = Tensor::empty({batch.tokens(), impl_->head.size(0)}, DType::f32, impl_->device);
  const LinearFusion around{.norm = impl_->final_norm, .eps = impl_->config.rms_norm_eps, .at_rest = true};
  if (run_kernel("fused_linear", fused_linear_forward, impl_->device, hidden, impl_->head, Tensor(), around, y))
    return y;
  return logits(rms_norm(hidden, impl_->final_norm, impl_->config.rms_norm_eps));
}

Tensor Decoder::module_weight(std::string_view module) const {
  if (module == "lm_head" && impl_->has_head) return impl_->head;
  for (const AdaptedLinear* linear : impl_->linears()) {
    if (const Tensor found = linear->weight_of(module); found.defined()) return found;
  }
  fail(ErrorCode::invalid_argument, "the model has no linear layer {}", module);
}

void Decoder::attach(std::shared_ptr<const Adapter> adapter, LoraLayout layout) {
  if (adapter->find("lm_head") != nullptr) fail(ErrorCode::unsupported, "an adapter on lm_head is not supported");
  impl_->refresh = attach_adapter(impl_->linears(), adapter.get(), layout);
  impl_->adapter = std::move(adapter);
}

void Decoder::detach() {
  impl_->refresh = attach_adapter(impl_->linears(), nullptr, LoraLayout::separate);
  impl_->adapter = nullptr;
}

void Decoder::refresh_adapter() { impl_->refresh.run(); }

void Decoder::set_recompute(std::span<const Recompute> each) {
  if (each.size() != impl_->layers.size()) {
    fail(ErrorCode::invalid_argument, "recomputation for {} layers, the model has {}", each.size(),
         impl_->layers.size());
  }
  impl_->recompute.assign(each.begin(), each.end());
}

const std::vector<Recompute>& Decoder::recompute() const noexcept { return impl_->recompute; }

void Decoder::set_dropout(double p, std::uint64_t seed, std::uint32_t pass) {
  set_adapter_dropout(impl_->linears(), p, seed, pass);
}

}  // namespace wick
