#include <algorithm>
#include <numeric>

#include "core/fail.h"
#include "core/parallel.h"
#include "core/work.h"
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

// Where batches of up to `limit` tokens, or one text, end in the order of texts.
std::vector<std::size_t> cut(std::span<const std::vector<TokenId>> texts, std::span<const std::size_t> order,
                             std::int64_t limit) {
  std::vector<std::size_t> ends;
  std::int64_t tokens = 0;
  for (std::size_t i = 0; i < order.size(); ++i) {
    const std::int64_t more = std::ssize(texts[order[i]]);
    if (i > 0 && tokens + more > limit) {
      ends.push_back(i);
      tokens = 0;
    }
    tokens += more;
  }
  if (!order.empty()) ends.push_back(order.size());
  return ends;
}

// Tokens of a batch on the CPU: few enough that what passes between ops stays in the caches and that each thread gets
// several batches, enough that products have whole tiles.
std::int64_t host_batch_tokens(std::span<const std::vector<TokenId>> texts) {
  std::int64_t tokens = 0;
  for (const std::vector<TokenId>& text : texts) tokens += std::ssize(text);
  return std::clamp<std::int64_t>(tokens / (4 * omp_get_max_threads()), 128, 512);
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
  const Tensor result = Tensor::empty({std::ssize(texts), dimension()}, DType::f32);
  std::vector<std::size_t> order(texts.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return texts[a].size() > texts[b].size(); });
  const bool host = encoder_.device().type == DeviceType::cpu;
  const std::vector<std::size_t> ends =
      cut(texts, order, host ? std::min(batch_tokens, host_batch_tokens(texts)) : batch_tokens);
  const auto embed_batch = [&](std::int64_t index) {
    const NoGrad no_grad;
    const auto at = static_cast<std::size_t>(index);
    const std::size_t begin = at == 0 ? 0 : ends[at - 1];
    std::vector<std::vector<TokenId>> batch;
    for (std::size_t i = begin; i < ends[at]; ++i) batch.push_back(texts[order[i]]);
    const Tensor vectors = pooled(TokenBatch::packed(batch)).to(Device::cpu()).to(DType::f32).contiguous();
    for (std::size_t i = begin; i < ends[at]; ++i) {
      std::copy_n(vectors.data<float>() + static_cast<std::int64_t>(i - begin) * dimension(), dimension(),
                  result.data<float>() + static_cast<std::int64_t>(order[i]) * dimension());
    }
  };
  const std::int64_t batches = std::ssize(ends);
  // A thread that has batches of its own waits for no other. A profile sees the work of its own thread only.
  if (host && batches >= omp_get_max_threads() && work_listener() == nullptr) {
    parallel_each(batches, embed_batch);
  } else {
    for (std::int64_t i = 0; i < batches; ++i) embed_batch(i);
  }
  return result;
}

Tensor truncate_embeddings(const Tensor& embeddings, std::int64_t columns) {
  if (columns < 1 || columns > embeddings.size(1)) {
    fail(ErrorCode::invalid_argument, "{} columns of embeddings that have {}", columns, embeddings.size(1));
  }
  return l2_normalize(embeddings.detach().slice(1, 0, columns));
}

}  // namespace wick
