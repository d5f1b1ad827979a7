// Sentence embeddings of a tiny random BERT against the vectors of sentence-transformers (data/encoder).
#include "wick/embedding.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "embedding_test_util.h"
#include "io/json.h"
#include "io_test_util.h"
#include "wick/safetensors.h"

namespace wick::test {
namespace {

namespace fs = std::filesystem;

const fs::path kData = fs::path(WICK_TEST_DATA);

class EmbeddingTest : public testing::Test {
 protected:
  EmbeddingTest() {
    fs::copy(kData / "encoder", folder_, fs::copy_options::recursive);
    fs::copy_file(kData / "tokenizer" / "bert.json", folder_ / "tokenizer.json");
    const Json expected = read_json_file(folder_ / "expected.json");
    texts_ = expected["texts"].get<std::vector<std::string>>();
    cases_ = expected["cases"];
  }
  void edit(const std::string& file, const std::function<void(Json&)>& change) const {
    edit_json(folder_ / file, change);
  }
  // Each embedding of texts_ beside the first case's.
  void expect_first_case(double tolerance) const {
    const Tensor found = EmbeddingModel::load(folder_).embed(texts_);
    expect_rows_near(found, cases_[0]["vectors"], tolerance);
  }

  TempDir dir_;
  fs::path folder_ = dir_ / "model";
  std::vector<std::string> texts_;
  Json cases_;
};

TEST_F(EmbeddingTest, GivesTheVectorsOfSentenceTransformers) {
  for (const Json& each : cases_) {
    SCOPED_TRACE(each["pooling"].dump());
    write_file(folder_ / "1_Pooling" / "config.json", each["pooling"].dump());
    const EmbeddingModel model = EmbeddingModel::load(folder_);
    EXPECT_EQ(model.max_tokens(), 40);
    expect_rows_near(model.embed(texts_), each["vectors"], 2e-6);
    expect_rows_near(model.embed(texts_, 1), each["vectors"], 2e-6);  // each text in a batch of its own
  }
}

TEST_F(EmbeddingTest, IsNearInBf16) {
  const EmbeddingModel model = EmbeddingModel::load(folder_, {.dtype = DType::bf16});
  const Tensor found = model.embed(texts_);
  for (std::size_t i = 0; i < texts_.size(); ++i) {
    const auto row = cases_[0]["vectors"][i].get<std::vector<float>>();
    double cosine = 0;
    for (std::size_t c = 0; c < row.size(); ++c) cosine += row[c] * found.data<float>()[i * row.size() + c];
    EXPECT_GE(cosine, 0.9995) << "text " << i;
  }
}

TEST_F(EmbeddingTest, ReadsOldNamesAndAPrefix) {
  const ShardedSafetensors files = ShardedSafetensors::open(folder_);
  std::vector<SafetensorsEntry> entries;
  for (const std::string& name : files.names()) {
    SafetensorsEntry entry = files.at(name);
    std::string renamed = "bert." + name;
    if (const auto at = renamed.find("LayerNorm.weight"); at != std::string::npos) {
      renamed.replace(at, std::string::npos, "LayerNorm.gamma");
    }
    if (const auto at = renamed.find("LayerNorm.bias"); at != std::string::npos) {
      renamed.replace(at, std::string::npos, "LayerNorm.beta");
    }
    entry.name = renamed;
    entries.push_back(entry);
  }
  write_safetensors(folder_ / "renamed", entries);
  fs::rename(folder_ / "renamed", folder_ / "model.safetensors");
  expect_first_case(2e-6);
}

TEST_F(EmbeddingTest, APlainFolderMeansTheMean) {
  fs::remove(folder_ / "modules.json");
  const EmbeddingModel model = EmbeddingModel::load(folder_);
  const Tensor found = model.embed(texts_);
  const auto unit = cases_[0]["vectors"][1].get<std::vector<float>>();
  double length = 0;
  double cosine = 0;
  for (std::size_t c = 0; c < unit.size(); ++c) {
    const double v = found.data<float>()[unit.size() + c];
    length += v * v;
    cosine += v * unit[c];
  }
  EXPECT_NEAR(cosine / std::sqrt(length), 1, 1e-6);
}

TEST_F(EmbeddingTest, RefusesWhatItDoesNotCompute) {
  const auto refused = [&](const std::string& file, std::string_view part, const std::function<void(Json&)>& change) {
    const std::string before = read_file(folder_ / file);
    edit(file, change);
    expect_error(ErrorCode::unsupported, part, [&] { (void)EmbeddingModel::load(folder_); });
    write_file(folder_ / file, before);
  };
  refused("config.json", "\"model_type\" is \"deberta-v2\"", [](Json& j) { j["model_type"] = "deberta-v2"; });
  refused("config.json", "\"hidden_act\" is \"relu\"", [](Json& j) { j["hidden_act"] = "relu"; });
  refused("config.json", "\"position_embedding_type\" is \"relative_key\"",
          [](Json& j) { j["position_embedding_type"] = "relative_key"; });
  edit("config.json", [](Json& j) { j["intermediate_size"] = 41; });
  expect_error(ErrorCode::format, "encoder.layer.0.intermediate.dense.weight has shape [40, 16]",
               [&] { (void)EmbeddingModel::load(folder_); });
}

TEST_F(EmbeddingTest, RefusesTokensThatDoNotFit) {
  const EmbeddingModel model = EmbeddingModel::load(folder_);
  const std::vector<std::vector<TokenId>> empty = {{2, 3}, {}};
  expect_refused("text 1 has 0 tokens, expected 1 to 40", [&] { (void)model.embed_tokens(empty); });
  const std::vector<std::vector<TokenId>> longer = {std::vector<TokenId>(41, 5)};
  expect_refused("text 0 has 41 tokens", [&] { (void)model.embed_tokens(longer); });
  expect_refused("a sequence of 49 tokens, the model has 48 positions",
                 [&] { (void)model.forward(TokenBatch::single(std::vector<TokenId>(49, 5))); });
  EXPECT_EQ(model.embed({}).size(0), 0);
}

}  // namespace
}  // namespace wick::test
