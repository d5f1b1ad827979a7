// all-MiniLM-L6-v2 itself against the vectors of sentence-transformers (data/minilm). `make minilm` fetches the model;
// WICK_MINILM names its folder where it lies elsewhere.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>

#include "io/json.h"
#include "io/npy.h"
#include "wick/embedding.h"
#include "wick/search.h"

namespace wick::test {
namespace {

namespace fs = std::filesystem;

class MiniLm : public testing::Test {
 protected:
  void SetUp() override {
    const char* const named = std::getenv("WICK_MINILM");
    folder_ = named != nullptr ? named : WICK_MINILM;
    if (named == nullptr && !fs::exists(folder_)) {
      GTEST_SKIP() << "all-MiniLM-L6-v2 is not in " << folder_ << ": `make minilm` fetches it";
    }
    texts_ = read_json_file(kData / "texts.json").get<std::vector<std::string>>();
    vectors_ = load_npy(kData / "vectors.npy");
    ASSERT_EQ(texts_.size(), 200U);
    ASSERT_EQ(describe(vectors_), "f32 [200, 384]");
  }
  void expect_cosines(DType dtype, double least) const {
    const EmbeddingModel model = EmbeddingModel::load(folder_, {.dtype = dtype});
    EXPECT_EQ(model.max_tokens(), 256);
    const Tensor found = model.embed(texts_, 2048);
    ASSERT_EQ(found.size(1), 384);
    double worst = 1;
    for (std::size_t i = 0; i < texts_.size(); ++i) {
      const float* a = found.data<float>() + i * 384;
      const float* b = vectors_.data<float>() + i * 384;
      double dot = 0;
      double aa = 0;
      double bb = 0;
      for (std::size_t c = 0; c < 384; ++c) {
        dot += static_cast<double>(a[c]) * b[c];
        aa += static_cast<double>(a[c]) * a[c];
        bb += static_cast<double>(b[c]) * b[c];
      }
      EXPECT_GE(dot / std::sqrt(aa * bb), least) << "text " << i << ": " << texts_[i].substr(0, 80);
      EXPECT_NEAR(std::sqrt(aa), 1, 1e-5) << "text " << i;
      worst = std::min(worst, dot / std::sqrt(aa * bb));
    }
    RecordProperty("worst_cosine", std::to_string(worst));
  }

  const fs::path kData = fs::path(WICK_TEST_DATA) / "minilm";
  fs::path folder_;
  std::vector<std::string> texts_;
  Tensor vectors_;
};

TEST_F(MiniLm, GivesTheVectorsOfSentenceTransformers) { expect_cosines(DType::f32, 0.99999); }

TEST_F(MiniLm, IsNearInBf16) { expect_cosines(DType::bf16, 0.9995); }

TEST_F(MiniLm, FindsEachTextByItself) {
  const EmbeddingIndex index(vectors_.clone());
  const auto hits = index.search(vectors_.clone(), 1);
  for (std::size_t i = 0; i < hits.size(); ++i) EXPECT_NEAR(hits[i].at(0).score, 1, 1e-6) << i;
}

}  // namespace
}  // namespace wick::test
