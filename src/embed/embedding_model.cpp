#include <algorithm>
#include <numeric>

#include "core/fail.h"
#include "embed/embed_batches.h"
#include "io/json.h"
#include "wick/autograd.h"
#include "wick/embedding.h"

namespace wick {
namespace {

// What a sentence-transformers folder lists in modules.json, in order: its folders by the class they are of.
struct Modules {
  std::filesystem::path encoder;
  std::optional<std::filesystem::path> pooling;
  bool normalize = false;
};

Modules read_modules(const std::filesystem::path& folder) {
  const std::filesystem::path path = folder / "modules.json";
  if (!std::filesystem::exists(path)) return {.encoder = folder, .pooling = std::nullopt};
  const std::string where = path.string();
  const Json list = read_json_file(path);
  if (!list.is_array()) fail(ErrorCode::format, "{}: expected a list of modules", where);
  Modules modules{.encoder = {}, .pooling = std::nullopt};
  for (const Json& module : list) {
    const std::string type = get<std::string>(module, "type", where);
    const std::filesystem::path at = folder / get<std::string>(module, "path", where);
    const std::string name = type.substr(type.rfind('.') + 1);
    const bool first = modules.encoder.empty();
    if (name == "Transformer" && first) {
      modules.encoder = at;
    } else if (name == "Pooling" && !first && !modules.pooling && !modules.normalize) {
      modules.pooling = at;
    } else if (name == "Normalize" && modules.pooling && !modules.normalize) {
      modules.normalize = true;
    } else {
      fail(ErrorCode::unsupported,
           "{}: module {} is not supported there (Transformer, Pooling and Normalize are, in this order)", where, type);
    }
  }
  if (modules.encoder.empty()) fail(ErrorCode::format, "{}: no Transformer module", where);
  return modules;
}

// Keys in the order in which sentence-transformers puts several side by side.
std::vector<Pooling> read_pooling(const std::filesystem::path& folder) {
  const std::filesystem::path path = folder / "config.json";
  const std::string where = path.string();
  const Json json = read_json_file(path);
  constexpr std::pair<const char*, Pooling> kModes[] = {{"pooling_mode_cls_token", Pooling::cls},
                                                        {"pooling_mode_max_tokens", Pooling::max},
                                                        {"pooling_mode_mean_tokens", Pooling::mean},
                                                        {"pooling_mode_mean_sqrt_len_tokens", Pooling::mean_sqrt},
                                                        {"pooling_mode_lasttoken", Pooling::last}};
  std::vector<Pooling> all;
  for (const auto& [key, mode] : kModes) {
    if (get_or<bool>(json, key, false, where)) all.push_back(mode);
  }
  if (get_or<bool>(json, "pooling_mode_weightedmean_tokens", false, where)) {
    fail(ErrorCode::unsupported, "{}: \"pooling_mode_weightedmean_tokens\" is not supported", where);
  }
  if (all.empty()) fail(ErrorCode::format, "{}: no pooling mode is on", where);
  return all;
}

}  // namespace

EmbeddingModel EmbeddingModel::load(const std::filesystem::path& folder, const LoadOptions& options) {
  const Modules modules = read_modules(folder);
  // The length to cut to is the model's: what tokenizer.json says is how it was trained.
  EmbeddingModel model(Encoder::load(modules.encoder, options),
                       Tokenizer::from_file(modules.encoder / "tokenizer.json", {.truncate = false}));
  model.pooling_ = modules.pooling ? read_pooling(*modules.pooling) : std::vector<Pooling>{Pooling::mean};
  model.normalize_ = modules.normalize;
  const EncoderConfig& c = model.encoder_.config();
  model.max_tokens_ = c.max_position_embeddings;
  if (const auto path = modules.encoder / "sentence_bert_config.json"; std::filesystem::exists(path)) {
    const auto cut = get_positive_or(read_json_file(path), "max_seq_length", model.max_tokens_, path.string());
    model.max_tokens_ = std::min(model.max_tokens_, cut);
  }
  return model;
}

std::int64_t EmbeddingModel::dimension() const noexcept { return std::ssize(pooling_) * encoder_.config().hidden_size; }

std::vector<TokenId> EmbeddingModel::tokenize(std::string_view text, std::int64_t max_tokens) const {
  const std::int64_t limit = max_tokens > 0 ? max_tokens : max_tokens_;
  return tokenizer_.encode_ids(text, {.max_tokens = static_cast<std::size_t>(limit)});
}

Tensor EmbeddingModel::pooled(const TokenBatch& given) const {
  const TokenBatch batch = given.to(encoder_.device());
  const Tensor hidden = forward(batch);
  const Tensor wide = cast(hidden, hidden.dtype() == DType::f64 ? DType::f64 : DType::f32);
  std::vector<Tensor> parts;
  for (const Pooling mode : pooling_) parts.push_back(pool(wide, batch.offsets, mode));
  const Tensor vectors = parts.size() == 1 ? parts[0] : concat(parts, 1);
  return normalize_ ? l2_normalize(vectors) : vectors;
}

Tensor EmbeddingModel::embed(std::span<const std::string> texts, std::int64_t batch_tokens) const {
  std::vector<std::vector<TokenId>> tokens;
  tokens.reserve(texts.size());
  for (const std::string& text : texts) tokens.push_back(tokenize(text));
  return embed_tokens(tokens, batch_tokens);
}

Tensor EmbeddingModel::embed_tokens(std::span<const std::vector<TokenId>> texts, std::int64_t batch_tokens) const {
  if (batch_tokens < 1) fail(ErrorCode::invalid_argument, "batch_tokens is {}, expected at least 1", batch_tokens);
  for (std::size_t i = 0; i < texts.size(); ++i) {
    if (texts[i].empty() || std::ssize(texts[i]) > max_tokens_) {
      fail(ErrorCode::invalid_argument, "text {} has {} tokens, expected 1 to {}", i, texts[i].size(), max_tokens_);
    }
  }
  return embed_batches(texts, dimension(), batch_tokens, encoder_.device(),
                       [this](const TokenBatch& batch) { return pooled(batch); });
}

Tensor truncate_embeddings(const Tensor& embeddings, std::int64_t columns) {
  if (columns < 1 || columns > embeddings.size(1)) {
    fail(ErrorCode::invalid_argument, "{} columns of embeddings that have {}", columns, embeddings.size(1));
  }
  return l2_normalize(embeddings.detach().slice(1, 0, columns));
}

}  // namespace wick
