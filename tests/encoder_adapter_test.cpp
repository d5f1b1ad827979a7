// LoRA on an encoder, against vectors that PEFT and sentence-transformers give (data/encoder/make_adapter.py).
#include <gtest/gtest.h>

#include <cstring>

#include "io/json.h"
#include "io_test_util.h"
#include "wick/embedding.h"
#include "wick/safetensors.h"

namespace wick::test {
namespace {

namespace fs = std::filesystem;

const fs::path kData = fs::path(WICK_TEST_DATA);

class EncoderAdapter : public testing::Test {
 protected:
  EncoderAdapter() {
    fs::copy(kData / "encoder", folder_, fs::copy_options::recursive);
    fs::copy_file(kData / "tokenizer" / "bert.json", folder_ / "tokenizer.json");
    const Json expected = read_json_file(folder_ / "adapter_expected.json");
    texts_ = read_json_file(folder_ / "expected.json")["texts"].get<std::vector<std::string>>();
    vectors_ = expected["vectors"].get<std::vector<std::vector<float>>>();
  }
  static std::shared_ptr<const Adapter> read(const fs::path& folder, const EmbeddingModel& model) {
    return std::make_shared<const Adapter>(load_adapter(folder, model.linear_modules()), model.linear_modules());
  }
  void expect_vectors(const Tensor& found) const {
    ASSERT_EQ(found.size(0), std::ssize(vectors_));
    const float* value = found.data<float>();
    for (std::size_t i = 0; i < vectors_.size(); ++i) {
      for (std::size_t c = 0; c < vectors_[i].size(); ++c) {
        EXPECT_NEAR(*value++, vectors_[i][c], 2e-6) << "text " << i << ", column " << c;
      }
    }
  }

  TempDir dir_;
  fs::path folder_ = dir_ / "model";
  std::vector<std::string> texts_;
  std::vector<std::vector<float>> vectors_;
};

TEST_F(EncoderAdapter, GivesTheVectorsOfPeft) {
  EmbeddingModel model = EmbeddingModel::load(folder_);
  for (const LoraLayout layout : {LoraLayout::separate, LoraLayout::bordered}) {
    model.attach(read(folder_ / "adapter", model), layout);
    expect_vectors(model.embed(texts_));
  }
}

TEST_F(EncoderAdapter, DetachedItIsTheBaseToTheByte) {
  EmbeddingModel model = EmbeddingModel::load(folder_);
  const std::vector<float> base = model.embed(texts_).to_vector<float>();
  const auto adapter = read(folder_ / "adapter", model);
  model.attach(adapter);
  const std::vector<float> adapted = model.embed(texts_).to_vector<float>();
  EXPECT_NE(adapted, base);
  model.detach();
  EXPECT_EQ(model.embed(texts_).to_vector<float>(), base);
  model.attach(adapter);
  EXPECT_EQ(model.embed(texts_).to_vector<float>(), adapted);
  adapter->values().fill(0);
  model.refresh_adapter();
  EXPECT_EQ(model.embed(texts_).to_vector<float>(), base);
}

TEST_F(EncoderAdapter, ReadsNamesOneLevelDown) {
  const fs::path file = folder_ / "adapter" / "adapter_model.safetensors";
  const auto rename = [&](const std::string& level, std::size_t count) {
    const SafetensorsFile source = SafetensorsFile::open(kData / "encoder" / "adapter" / "adapter_model.safetensors");
    std::vector<SafetensorsEntry> entries(source.entries().begin(), source.entries().end());
    for (std::size_t i = 0; i < std::min(count, entries.size()); ++i) {
      entries[i].name.insert(std::string_view("base_model.model.").size(), level);
    }
    write_safetensors(file, entries, {});
  };
  EmbeddingModel model = EmbeddingModel::load(folder_);
  rename("bert.", 1000);
  model.attach(read(folder_ / "adapter", model));
  expect_vectors(model.embed(texts_));
  for (const auto& [level, count] : {std::pair("bert.", 3), {"a.b.", 1000}}) {
    rename(level, static_cast<std::size_t>(count));
    expect_error(ErrorCode::format, "missing: \"base_model.model.encoder.layer.",
                 [&] { (void)read(folder_ / "adapter", model); });
  }
}

TEST_F(EncoderAdapter, ThePoolerIsNeverSelected) {
  EmbeddingModel model = EmbeddingModel::load(folder_);
  LoraConfig config;
  config.target_modules = "all-linear";
  const auto targets = resolve_targets(config, model.linear_modules());
  EXPECT_EQ(targets.size(), 12U);  // six in each of two layers
  config.target_modules = std::vector<std::string>{"pooler.dense"};
  expect_refused("target_modules [\"pooler.dense\"] selects none of the model's 13 modules",
                 [&] { (void)resolve_targets(config, model.linear_modules()); });
}

TEST_F(EncoderAdapter, GradientsReachEveryFactorAndDropoutIsMade) {
  EmbeddingModel model = EmbeddingModel::load(folder_);
  LoraConfig config;
  config.target_modules = "all-linear";
  const auto adapter =
      std::make_shared<const Adapter>(init_adapter(config, model.linear_modules(), 1), model.linear_modules());
  model.attach(adapter);
  const TokenBatch batch = TokenBatch::packed(std::vector{model.tokenize(texts_[1]), model.tokenize(texts_[2])});
  const Tensor seed = Tensor::full({2, model.dimension()}, 0.5, DType::f32);
  const auto gradients = [&](double dropout, std::uint32_t pass) {
    adapter->zero_grad();
    model.set_dropout(dropout, 11, pass);
    Tape tape;
    tape.backward(model.pooled(batch), seed);
    adapter->require_gradients();
    return adapter->gradients().to_vector<float>();
  };
  const std::vector<float> plain = gradients(0, 0);
  const std::vector<float> dropped = gradients(0.5, 0);
  EXPECT_NE(dropped, plain);
  EXPECT_NE(gradients(0.5, 1), dropped);
  EXPECT_EQ(gradients(0.5, 0), dropped);
  EXPECT_EQ(gradients(0, 5), plain);
}

}  // namespace
}  // namespace wick::test
