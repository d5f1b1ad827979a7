// Sentence embeddings of a tiny random model of each architecture beside BERT (embedding_test.cpp) against what
// sentence-transformers makes of the same texts (data/encoder_families).
#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "io/json.h"
#include "io_test_util.h"
#include "op_matrix.h"
#include "wick/embedding.h"
#include "wick/safetensors.h"

namespace wick::test {
namespace {

namespace fs = std::filesystem;
using testing::test_device;

class EncoderFamilies : public ::testing::TestWithParam<const char*> {
 protected:
  // A copy of one of the folders, whole.
  void open(const std::string& name) {
    const fs::path data = WICK_TEST_DATA;
    folder_ = dir_ / name;
    fs::copy(data / "encoder_families" / name, folder_, fs::copy_options::recursive);
    if (name == "xlm-roberta") fs::copy_file(data / "tokenizer" / "unigram_spm.json", folder_ / "tokenizer.json");
    const Json expected = read_json_file(folder_ / "expected.json");
    texts_ = expected["texts"].get<std::vector<std::string>>();
    ids_ = expected["ids"].get<std::vector<std::vector<TokenId>>>();
    vectors_ = expected["vectors"].get<std::vector<std::vector<float>>>();
    longest_ = expected["max_tokens"].get<std::int64_t>();
  }
  void edit(const std::string& file, const std::function<void(Json&)>& change) const {
    Json json = read_json_file(folder_ / file);
    change(json);
    write_file(folder_ / file, dump_json(json));
  }
  // The weights by other names, and some more of them.
  void rewrite(const std::function<std::string(const std::string&)>& rename, const std::vector<std::string>& more) {
    const ShardedSafetensors files = ShardedSafetensors::open(folder_);
    std::vector<SafetensorsEntry> entries;
    for (const std::string& name : files.names()) {
      entries.push_back(files.at(name));
      entries.back().name = rename(name);
    }
    for (const std::string& name : more) entries.push_back(make_entry(name, Tensor::full({3}, 0.5, DType::f32)));
    write_safetensors(folder_ / "rewritten", entries);
    fs::rename(folder_ / "rewritten", folder_ / "model.safetensors");
  }
  void expect_vectors(const Tensor& found, double tolerance, double least_cosine) const {
    ASSERT_EQ(found.size(0), std::ssize(vectors_));
    for (std::size_t i = 0; i < vectors_.size(); ++i) {
      const std::vector<float>& expected = vectors_[i];
      ASSERT_EQ(found.size(1), std::ssize(expected));
      const float* row = found.data<float>() + i * expected.size();
      double difference = 0;
      double cosine = 0;
      for (std::size_t c = 0; c < expected.size(); ++c) {
        difference = std::max<double>(difference, std::abs(row[c] - expected[c]));
        cosine += static_cast<double>(row[c]) * expected[c];
      }
      EXPECT_LE(difference, tolerance) << "text " << i;
      EXPECT_GE(cosine, least_cosine) << "text " << i;
    }
  }
  void expect_unchanged() const {
    expect_vectors(EmbeddingModel::load(folder_, {.device = test_device()}).embed(texts_), 2e-6, 0.99999);
  }

  TempDir dir_;
  fs::path folder_;
  std::vector<std::string> texts_;
  std::vector<std::vector<TokenId>> ids_;
  std::vector<std::vector<float>> vectors_;
  std::int64_t longest_ = 0;
};

TEST_P(EncoderFamilies, CutsTextsIntoTheSameTokens) {
  open(GetParam());
  const EmbeddingModel model = EmbeddingModel::load(folder_);
  EXPECT_EQ(model.max_tokens(), longest_);
  const Tokenizer tokenizer = Tokenizer::from_file(folder_ / "tokenizer.json", {.truncate = false});
  const auto offsets = read_json_file(folder_ / "expected.json")["offsets"];
  for (std::size_t i = 0; i < texts_.size(); ++i) {
    EXPECT_EQ(model.tokenize(texts_[i]), ids_[i]) << texts_[i];
    const Encoding whole = tokenizer.encode(texts_[i], {.max_tokens = static_cast<std::size_t>(longest_)});
    EXPECT_EQ(whole.offsets, (offsets[i].get<std::vector<std::pair<std::size_t, std::size_t>>>())) << texts_[i];
  }
}

TEST_P(EncoderFamilies, GivesTheVectorsOfSentenceTransformers) {
  open(GetParam());
  const EmbeddingModel model = EmbeddingModel::load(folder_, {.device = test_device()});
  expect_vectors(model.embed(texts_), 2e-6, 0.99999);
  expect_vectors(model.embed(texts_, 1), 2e-6, 0.99999);  // each text in a batch of its own
}

TEST_P(EncoderFamilies, GivesThemOpByOp) {
  open(GetParam());
  set_fused(false);
  expect_unchanged();
  set_fused(true);
}

TEST_P(EncoderFamilies, GivesTheVectorsOfPeft) {
  open(GetParam());
  EmbeddingModel model = EmbeddingModel::load(folder_, {.device = test_device()});
  const auto adapter = std::make_shared<const Adapter>(load_adapter(folder_ / "adapter", model.linear_modules()),
                                                       model.linear_modules(), model.device());
  vectors_ = read_json_file(folder_ / "expected.json")["adapted"].get<std::vector<std::vector<float>>>();
  for (const LoraLayout layout : {LoraLayout::separate, LoraLayout::bordered}) {
    model.attach(adapter, layout);
    expect_vectors(model.embed(texts_), 2e-6, 0.99999);
  }
}

TEST_P(EncoderFamilies, IsNearInBf16) {
  open(GetParam());
  const EmbeddingModel model = EmbeddingModel::load(folder_, {.dtype = DType::bf16, .device = test_device()});
  expect_vectors(model.embed(texts_), 0.05, 0.9995);
}

TEST_P(EncoderFamilies, LeavesThePoolerAndAHeadOut) {
  open(GetParam());
  const std::string name = GetParam();
  if (name == "qwen3") {
    rewrite([](const std::string& weight) { return "model." + weight; }, {"lm_head.weight"});
  } else {
    const std::string prefix = name == "mpnet" ? "mpnet." : "roberta.";
    rewrite([&](const std::string& weight) { return prefix + weight; },
            {"lm_head.bias", "lm_head.dense.weight", prefix + "pooler.dense.bias", prefix + "embeddings.position_ids"});
  }
  expect_unchanged();
  rewrite([](const std::string& weight) { return weight; }, {"classifier.weight"});
  expect_error(ErrorCode::format, "tensor classifier.weight is in the file, but not in a model of this config",
               [&] { (void)EmbeddingModel::load(folder_); });
}

INSTANTIATE_TEST_SUITE_P(Each, EncoderFamilies, ::testing::Values("roberta", "xlm-roberta", "mpnet", "qwen3"),
                         [](const auto& each) {
                           std::string name = each.param;
                           std::erase(name, '-');
                           return name;
                         });

class EncoderTest : public EncoderFamilies {};

TEST_F(EncoderTest, TheLongestTextIsWhatPositionsAllow) {
  const std::pair<const char*, std::int64_t> cases[] = {
      {"roberta", 60 - 4}, {"xlm-roberta", 66 - 2}, {"mpnet", 162 - 2}, {"qwen3", 128}};
  for (const auto& [name, longest] : cases) {
    open(name);
    fs::remove(folder_ / "sentence_bert_config.json");
    EXPECT_EQ(EmbeddingModel::load(folder_).max_tokens(), longest) << name;
  }
}

TEST_F(EncoderTest, RefusesPositionsThatItDoesNotHave) {
  open("roberta");
  const Encoder model = Encoder::load(folder_);
  EXPECT_EQ(model.config().first_position(), 4);
  expect_refused("a sequence of 57 tokens, the model has 56 positions",
                 [&] { (void)model.forward(TokenBatch::single(std::vector<TokenId>(57, 5))); });
  TokenBatch batch = TokenBatch::single(std::vector<TokenId>{5, 6}, 55);
  expect_refused("token 1 has position 56, the model has 0 to 55", [&] { (void)model.forward(batch); });
  batch = TokenBatch::single(std::vector<TokenId>{5, 6});
  batch.offsets.data<std::int32_t>()[1] = 7;
  expect_refused("query_offsets[1] is 7, expected 0 to 2", [&] { (void)model.forward(batch); });
}

TEST_F(EncoderTest, RefusesWhatItDoesNotCompute) {
  const auto refused = [&](ErrorCode code, std::string_view part, const std::function<void(Json&)>& change) {
    const std::string before = read_file(folder_ / "config.json");
    edit("config.json", change);
    expect_error(code, part, [&] { (void)EmbeddingModel::load(folder_); });
    write_file(folder_ / "config.json", before);
  };
  open("roberta");
  refused(ErrorCode::unsupported, "config.json: \"position_embedding_type\" is \"relative_key\"",
          [](Json& j) { j["position_embedding_type"] = "relative_key"; });
  refused(ErrorCode::unsupported, "config.json: \"is_decoder\" is true", [](Json& j) { j["is_decoder"] = true; });
  refused(ErrorCode::unsupported, "\"model_type\" is \"xlm-roberta-xl\", only bert, roberta, xlm-roberta and mpnet",
          [](Json& j) { j["model_type"] = "xlm-roberta-xl"; });
  refused(ErrorCode::format, "\"pad_token_id\" is -1, expected an id", [](Json& j) { j["pad_token_id"] = -1; });
  refused(ErrorCode::format, "\"pad_token_id\" is 439, expected an id below \"vocab_size\" 439",
          [](Json& j) { j["pad_token_id"] = 439; });
  refused(ErrorCode::format, "\"max_position_embeddings\" is 4, expected more than the 4 of padding",
          [](Json& j) { j["max_position_embeddings"] = 4; });
  refused(ErrorCode::format, "embeddings.token_type_embeddings.weight has shape [1, 16]",
          [](Json& j) { j["type_vocab_size"] = 2; });
  open("mpnet");
  refused(ErrorCode::unsupported, "config.json: \"relative_attention_num_buckets\" is 64, only 32 is supported",
          [](Json& j) { j["relative_attention_num_buckets"] = 64; });
  rewrite([](const std::string& name) { return name == "encoder.relative_attention_bias.weight" ? "other" : name; },
          {});
  expect_error(ErrorCode::format, "encoder.relative_attention_bias.weight",
               [&] { (void)EmbeddingModel::load(folder_); });
  open("qwen3");
  refused(ErrorCode::unsupported, "config.json: \"is_causal\" is false", [](Json& j) { j["is_causal"] = false; });
  refused(ErrorCode::unsupported, "config.json: architecture Qwen3ForSequenceClassification is not supported",
          [](Json& j) { j["architectures"] = {"Qwen3ForSequenceClassification"}; });
}

// As the published files of Qwen3-Embedding have it: a language model by its config, but with neither "model." nor
// head.
TEST_F(EncoderTest, ALanguageModelMayLackItsHead) {
  open("qwen3");
  edit("config.json", [](Json& j) { j["architectures"] = {"Qwen3ForCausalLM"}; });
  expect_unchanged();
  expect_error(ErrorCode::format, "lm_head.weight", [&] { (void)Decoder::load(folder_); });

  const Decoder bare = Decoder::load(folder_, {.head = false});
  EXPECT_FALSE(bare.head().defined());
  EXPECT_EQ(bare.linear_modules().front().name, "layers.0.self_attn.q_proj");
  EXPECT_EQ(bare.linear_modules().back().name, "layers.1.mlp.down_proj");
  EXPECT_EQ(bare.module_weight("layers.0.self_attn.q_proj").shape(), (Shape{32, 16}));
  expect_refused("no linear layer lm_head", [&] { (void)bare.module_weight("lm_head"); });
  const Tensor hidden = bare.forward(TokenBatch::single(ids_[1]));
  expect_refused("without its output head", [&] { (void)bare.logits(hidden); });

  edit("config.json", [](Json& j) { j["tie_word_embeddings"] = true; });
  const Decoder whole = Decoder::load(folder_);  // tied, it has one all the same
  EXPECT_EQ(whole.logits(hidden).shape(), (Shape{std::ssize(ids_[1]), 604}));
  EXPECT_EQ(whole.linear_modules().front().name, "model.layers.0.self_attn.q_proj");
  expect_unchanged();
}

}  // namespace
}  // namespace wick::test
