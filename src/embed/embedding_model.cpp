#include <algorithm>
#include <numeric>

#include "core/fail.h"
#include "embed/modules.h"
#include "io/quote.h"
#include "wick/autograd.h"
#include "wick/embedding.h"

namespace wick {

EmbeddingModel EmbeddingModel::load(const std::filesystem::path& folder, const LoadOptions& options) {
  const EmbeddingModules modules = read_embedding_modules(folder);
  EmbeddingModel model(Encoder::load(modules.encoder, options),
                       load_embedding_tokenizer(modules.encoder, modules.lower_case));
  const EncoderConfig& c = model.encoder_.config();
  if (modules.width.value_or(c.hidden_size) != c.hidden_size) {
    fail(ErrorCode::format, "{}: the pooling is for {} columns, the model has {}", folder.string(), *modules.width,
         c.hidden_size);
  }
  model.pooling_ = modules.pooling;
  model.dimension_ = std::ssize(model.pooling_) * c.hidden_size;
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
  model.max_tokens_ = std::min(c.max_position_embeddings, modules.max_tokens.value_or(c.max_position_embeddings));
  model.prompts_ = modules.prompts;
  model.default_prompt_ = modules.default_prompt;
  model.pools_prompt_ = modules.include_prompt;
  return model;
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
  Tensor vectors = parts.size() == 1 ? parts[0] : concat(parts, 1);
  for (const auto& dense : steps_) vectors = dense ? (*dense)(vectors) : l2_normalize(vectors);
  return vectors;
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
  const NoGrad no_grad;
  const Tensor result = Tensor::empty({std::ssize(texts), dimension()}, DType::f32);
  std::vector<std::size_t> order(texts.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return texts[a].size() > texts[b].size(); });
  for (std::size_t begin = 0, end = 0; begin < order.size(); begin = end) {
    std::vector<std::vector<TokenId>> batch;
    std::int64_t tokens = 0;
    for (; end < order.size(); ++end) {
      const std::vector<TokenId>& text = texts[order[end]];
      if (!batch.empty() && tokens + std::ssize(text) > batch_tokens) break;
      tokens += std::ssize(text);
      batch.push_back(text);
    }
    const Tensor vectors = pooled(TokenBatch::packed(batch)).to(Device::cpu()).to(DType::f32).contiguous();
    for (std::size_t i = begin; i < end; ++i) {
      std::copy_n(vectors.data<float>() + static_cast<std::int64_t>(i - begin) * dimension(), dimension(),
                  result.data<float>() + static_cast<std::int64_t>(order[i]) * dimension());
    }
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
