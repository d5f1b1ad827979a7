#include <algorithm>
#include <array>

#include "core/fail.h"
#include "core/parallel.h"
#include "embed/embed_batches.h"
#include "embed/modules.h"
#include "io/json.h"
#include "io/quote.h"
#include "wick/autograd.h"
#include "wick/embedding.h"

namespace wick {
namespace {

template <class... F>
struct Overloaded : F... {
  using F::operator()...;
};

// A decoder, without its head, where config.json names one, else an encoder.
std::variant<Encoder, Decoder> load_transformer(const std::filesystem::path& folder, const LoadOptions& options) {
  constexpr std::array kDecoders = {Architecture::llama, Architecture::qwen2, Architecture::qwen3,
                                    Architecture::mistral};
  const std::filesystem::path path = folder / "config.json";
  const std::string type = get<std::string>(read_json_file(path), "model_type", path.string());
  const auto named = [&](Architecture each) { return to_string(each) == type; };
  if (!std::ranges::any_of(kDecoders, named)) return Encoder::load(folder, options);
  LoadOptions bare = options;
  bare.head = false;
  return Decoder::load(folder, bare);
}

}  // namespace

EmbeddingModel EmbeddingModel::load(const std::filesystem::path& folder, const LoadOptions& options) {
  const EmbeddingModules modules = read_embedding_modules(folder);
  EmbeddingModel model(load_transformer(modules.encoder, options),
                       load_embedding_tokenizer(modules.encoder, modules.lower_case));
  const std::int64_t width = model.hidden_size();
  if (modules.width.value_or(width) != width) {
    fail(ErrorCode::format, "{}: the pooling is for {} columns, the model has {}", folder.string(), *modules.width,
         width);
  }
  model.pooling_ = modules.pooling;
  model.dimension_ = std::ssize(model.pooling_) * width;
  for (const EmbeddingModules::Step& step : modules.steps) {
    model.steps_.push_back(step.dense ? std::make_shared<const DenseModule>(DenseModule::load(*step.dense, options))
                                      : nullptr);
    if (!step.dense) continue;
    const DenseModule& dense = *model.steps_.back();
    if (dense.in_features() != model.dimension_) {
      fail(ErrorCode::format, "{}: \"in_features\" is {}, what comes before has {} columns",
           (*step.dense / "config.json").string(), dense.in_features(), model.dimension_);
    }
    model.dimension_ = dense.out_features();
  }
  const std::int64_t positions =
      std::visit(Overloaded{[](const Encoder& m) { return m.config().max_tokens(); },
                            [](const Decoder& m) { return m.config().max_position_embeddings; }},
                 model.transformer_);
  model.max_tokens_ = std::min(positions, modules.max_tokens.value_or(positions));
  model.prompts_ = modules.prompts;
  model.default_prompt_ = modules.default_prompt;
  model.pools_prompt_ = modules.include_prompt;
  return model;
}

std::int64_t EmbeddingModel::hidden_size() const noexcept {
  return std::visit([](const auto& m) { return m.config().hidden_size; }, transformer_);
}

DType EmbeddingModel::dtype() const noexcept {
  return std::visit([](const auto& m) { return m.dtype(); }, transformer_);
}

Device EmbeddingModel::device() const noexcept {
  return std::visit([](const auto& m) { return m.device(); }, transformer_);
}

const std::string& EmbeddingModel::prompt(const std::string& name) const {
  const auto found = prompts_.find(name);
  if (found == prompts_.end()) {
    std::vector<std::string> known;
    for (const auto& [each, text] : prompts_) known.push_back(quote(each));
    fail(ErrorCode::invalid_argument, "no prompt is called {}; {}", quote(name),
         known.empty() ? "this model has none" : fmt::format("this model has {}", fmt::join(known, ", ")));
  }
  return found->second;
}

std::string EmbeddingModel::with_prompt(std::string_view prompt, std::string_view text) const {
  if (!prompt.empty() && !pools_prompt_) {
    fail(ErrorCode::unsupported, "\"include_prompt\" of this model's pooling is false: prompts are not supported then");
  }
  return std::string(prompt).append(text);
}

Tensor EmbeddingModel::forward(const TokenBatch& batch) const {
  return std::visit([&](const auto& m) { return m.forward(batch); }, transformer_);
}

std::vector<TokenId> EmbeddingModel::tokenize(std::string_view text, std::int64_t max_tokens) const {
  const std::int64_t limit = max_tokens > 0 ? max_tokens : max_tokens_;
  return tokenizer_.encode_ids(text, {.max_tokens = static_cast<std::size_t>(limit)});
}

const std::vector<ModuleInfo>& EmbeddingModel::linear_modules() const noexcept {
  return std::visit([](const auto& m) -> const std::vector<ModuleInfo>& { return m.linear_modules(); }, transformer_);
}

void EmbeddingModel::attach(std::shared_ptr<const Adapter> adapter, LoraLayout layout) {
  std::visit([&](auto& m) { m.attach(std::move(adapter), layout); }, transformer_);
}

void EmbeddingModel::detach() {
  std::visit([](auto& m) { m.detach(); }, transformer_);
}

void EmbeddingModel::refresh_adapter() {
  std::visit([](auto& m) { m.refresh_adapter(); }, transformer_);
}

void EmbeddingModel::set_dropout(double p, std::uint64_t seed, std::uint32_t pass) {
  std::visit([&](auto& m) { m.set_dropout(p, seed, pass); }, transformer_);
}

Tensor EmbeddingModel::pooled(const TokenBatch& batch) const {
  const Tensor hidden = forward(batch);  // which may look at a batch that is still on the host
  const Tensor offsets = batch.offsets.to(hidden.device());
  const Tensor wide = cast(hidden, hidden.dtype() == DType::f64 ? DType::f64 : DType::f32);
  std::vector<Tensor> parts;
  for (const Pooling mode : pooling_) parts.push_back(pool(wide, offsets, mode));
  Tensor vectors = parts.size() == 1 ? parts[0] : concat(parts, 1);
  for (const auto& dense : steps_) vectors = dense ? (*dense)(vectors) : l2_normalize(vectors);
  return vectors;
}

Tensor EmbeddingModel::embed(std::span<const std::string> texts, std::int64_t batch_tokens) const {
  std::vector<std::vector<TokenId>> tokens(texts.size());
  parallel_for(std::ssize(texts), 16, [&](std::int64_t begin, std::int64_t end) {
    for (auto i = static_cast<std::size_t>(begin); i < static_cast<std::size_t>(end); ++i)
      tokens[i] = tokenize(texts[i]);
  });
  return embed_tokens(tokens, batch_tokens);
}

Tensor EmbeddingModel::embed_tokens(std::span<const std::vector<TokenId>> texts, std::int64_t batch_tokens) const {
  if (batch_tokens < 1) fail(ErrorCode::invalid_argument, "batch_tokens is {}, expected at least 1", batch_tokens);
  for (std::size_t i = 0; i < texts.size(); ++i) {
    if (texts[i].empty() || std::ssize(texts[i]) > max_tokens_) {
      fail(ErrorCode::invalid_argument, "text {} has {} tokens, expected 1 to {}", i, texts[i].size(), max_tokens_);
    }
  }
  return embed_batches(texts, dimension(), batch_tokens, device(),
                       [this](const TokenBatch& batch) { return pooled(batch); });
}

Tensor truncate_embeddings(const Tensor& embeddings, std::int64_t columns) {
  if (columns < 1 || columns > embeddings.size(1)) {
    fail(ErrorCode::invalid_argument, "{} columns of embeddings that have {}", columns, embeddings.size(1));
  }
  return l2_normalize(embeddings.detach().slice(1, 0, columns));
}

}  // namespace wick
