// Encoders and embeddings on a GPU: the vectors of sentence-transformers, and those of the CPU.
#include <gtest/gtest.h>

#include <cstring>

#include "backend/backend.h"
#include "backend/cuda/runtime.h"
#include "embed/embed_batches.h"
#include "io/json.h"
#include "io_test_util.h"
#include "op_matrix.h"
#include "wick/embedding.h"

namespace wick::test {
namespace {

namespace fs = std::filesystem;
using Texts = std::vector<std::vector<TokenId>>;

class CudaEmbedding : public ::testing::Test {
 protected:
  void SetUp() override {
    device_.type = DeviceType::cuda;
    if (const std::string missing = backend(device_).missing(device_); !missing.empty()) GTEST_SKIP() << missing;
  }
  // MiniLM's layers, with a small vocabulary.
  static EncoderConfig config() {
    EncoderConfig c;
    c.vocab_size = 500;
    c.hidden_size = 384;
    c.intermediate_size = 1536;
    c.num_hidden_layers = 2;
    c.num_attention_heads = 12;
    c.max_position_embeddings = 512;
    c.type_vocab_size = 2;
    return c;
  }
  static Texts texts(std::size_t count, std::size_t longest) {
    std::mt19937 random(3);
    Texts all;
    for (std::size_t i = 0; i < count; ++i) {
      std::vector<TokenId>& text = all.emplace_back(i == 0 ? longest : 1 + random() % longest);
      for (TokenId& id : text) id = static_cast<TokenId>(random() % 500);
    }
    return all;
  }
  static Tensor vectors(const Encoder& encoder, const Texts& all, std::int64_t batch_tokens) {
    return embed_batches(all, 384, batch_tokens, encoder.device(), [&](const TokenBatch& given) {
      const TokenBatch batch = given.to(encoder.device());
      return l2_normalize(pool(cast(encoder.forward(batch), DType::f32), batch.offsets, Pooling::mean));
    });
  }
  static double lowest_cosine(const Tensor& a, const Tensor& b) {
    double lowest = 1;
    for (std::int64_t i = 0; i < a.size(0); ++i) {
      double sums[3] = {};
      for (std::int64_t c = 0; c < a.size(1); ++c) {
        const double x = a.data<float>()[i * a.size(1) + c];
        const double y = b.data<float>()[i * a.size(1) + c];
        sums[0] += x * y, sums[1] += x * x, sums[2] += y * y;
      }
      lowest = std::min(lowest, sums[0] / std::sqrt(sums[1] * sums[2]));
    }
    return lowest;
  }

  Device device_;
};

TEST_F(CudaEmbedding, GivesTheVectorsOfSentenceTransformers) {
  const TempDir dir;
  const fs::path folder = dir / "model";
  fs::copy(fs::path(WICK_TEST_DATA) / "encoder", folder, fs::copy_options::recursive);
  fs::copy_file(fs::path(WICK_TEST_DATA) / "tokenizer" / "bert.json", folder / "tokenizer.json");
  const Json expected = read_json_file(folder / "expected.json");
  const auto names = expected["texts"].get<std::vector<std::string>>();
  for (const Json& each : expected["cases"]) {
    write_file(folder / "1_Pooling" / "config.json", each["pooling"].dump());
    for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
      SCOPED_TRACE(each["pooling"].dump() + std::string(to_string(dtype)));
      const Tensor found = EmbeddingModel::load(folder, {.dtype = dtype, .device = device_}).embed(names);
      std::vector<float> all;
      for (const Json& row : each["vectors"]) {
        const auto values = row.get<std::vector<float>>();
        all.insert(all.end(), values.begin(), values.end());
      }
      const Tensor right = Tensor::from(all, found.shape());
      if (dtype == DType::f32) {
        EXPECT_LE(testing::relative_error(found, right), 1e-5);
      }
      EXPECT_GE(lowest_cosine(found, right), dtype == DType::f32 ? 0.999999 : 0.9995);
    }
  }
}

TEST_F(CudaEmbedding, GivesTheVectorsOfTheCpu) {
  const Texts all = texts(60, 300);
  for (const DType dtype : {DType::f32, DType::bf16}) {
    SCOPED_TRACE(to_string(dtype));
    const Encoder here = Encoder::random(config(), {.dtype = dtype}, 7);
    const Encoder there = Encoder::random(config(), {.dtype = dtype, .device = device_}, 7);
    const Tensor expected = vectors(here, all, 4096);
    for (const std::int64_t batch_tokens : {std::int64_t{1}, std::int64_t{2000}, std::int64_t{100000}}) {
      EXPECT_GE(lowest_cosine(vectors(there, all, batch_tokens), expected), dtype == DType::f32 ? 0.999999 : 0.9995)
          << batch_tokens;
    }
  }
}

TEST_F(CudaEmbedding, ATextDoesNotDependOnItsBatch) {
  const Texts all = texts(300, 200);
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    SCOPED_TRACE(to_string(dtype));
    const Encoder encoder = Encoder::random(config(), {.dtype = dtype, .device = device_}, 7);
    const Tensor together = vectors(encoder, all, 1 << 20);
    const Tensor alone = vectors(encoder, all, 1);
    EXPECT_EQ(std::memcmp(together.raw(), alone.raw(), 300 * 384 * 4), 0);
  }
}

// Short texts in many batches: those of one stand beside the next one's work.
TEST_F(CudaEmbedding, BringsManyBatchesBackInOrder) {
  const Texts all = texts(6000, 32);
  const Encoder encoder = Encoder::random(config(), {.dtype = DType::bf16, .device = device_}, 7);
  const Tensor once = vectors(encoder, all, 1 << 20);
  const Tensor pieces = vectors(encoder, all, 3000);
  EXPECT_GE(lowest_cosine(once, pieces), 0.9999);
  const Tensor again = vectors(encoder, all, 3000);
  EXPECT_EQ(std::memcmp(pieces.raw(), again.raw(), 6000 * 384 * 4), 0);
}

}  // namespace
}  // namespace wick::test
