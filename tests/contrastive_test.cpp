// The loss over pairs of texts and its data: against sentence-transformers and PyTorch (data/encoder/make_adapter.py),
// finite differences, and by hand.
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "core/rng.h"
#include "io/json.h"
#include "io_test_util.h"
#include "op_matrix.h"
#include "wick/contrastive.h"
#include "wick/safetensors.h"

namespace wick::test {
namespace {

namespace fs = std::filesystem;
using testing::test_device;

const fs::path kData = fs::path(WICK_TEST_DATA);

Tensor numbers(const std::vector<std::int32_t>& values) { return Tensor::from(values, {std::ssize(values)}); }

Tensor random(const Shape& shape, DType dtype, std::uint32_t which = 0) {
  const Tensor t = Tensor::empty(shape, DType::f32);
  fill_uniform(t, -1, 1, 3, {RandomPurpose::initialisation, which});
  return t.to(dtype);
}

class Contrastive : public ::testing::Test {
 protected:
  Contrastive() {
    fs::copy(kData / "encoder", folder_, fs::copy_options::recursive);
    fs::copy_file(kData / "tokenizer" / "bert.json", folder_ / "tokenizer.json");
    expected_ = read_json_file(folder_ / "adapter_expected.json");
  }
  EmbeddingModel load(DType dtype = DType::f32) const {
    return EmbeddingModel::load(folder_, {.dtype = dtype, .device = test_device()});
  }
  std::shared_ptr<const Adapter> attach(EmbeddingModel& model) const {
    const std::vector<ModuleInfo>& modules = model.linear_modules();
    auto adapter = std::make_shared<const Adapter>(load_adapter(folder_ / "adapter", modules), modules, test_device());
    model.attach(adapter);
    return adapter;
  }
  // The reference rows, column by column, and their texts' numbers, all different.
  TokenBatch batch(const EmbeddingModel& model, std::size_t columns) const {
    std::vector<std::vector<TokenId>> sequences;
    for (std::size_t column = 0; column < columns; ++column) {
      for (const Json& row : expected_["rows"]) sequences.push_back(model.tokenize(row[column].get<std::string>()));
    }
    return TokenBatch::packed(sequences);
  }
  static Tensor different(std::size_t count) {
    std::vector<std::int32_t> all(count);
    std::iota(all.begin(), all.end(), 0);
    return numbers(all);
  }

  TempDir dir_;
  fs::path folder_ = dir_ / "model";
  Json expected_;
};

TEST_F(Contrastive, LossAndGradientsOfSentenceTransformersAndPeft) {
  const SafetensorsFile gradients = SafetensorsFile::open(folder_ / "adapter_gradients.safetensors");
  for (const bool fused : {true, false}) {
    const testing::FusedScope scope(fused);
    EmbeddingModel model = load();
    const auto adapter = attach(model);
    std::size_t compared = 0;
    for (std::size_t i = 0; i < expected_["losses"].size(); ++i) {
      const Json& one = expected_["losses"][i];
      const auto columns = one["columns"].get<std::size_t>();
      adapter->zero_grad();
      Tape tape;
      const Tensor loss = contrastive_loss(model.pooled(batch(model, columns)), different(4 * columns), 4,
                                           {one["temperature"].get<double>(), one["symmetric"].get<bool>()});
      EXPECT_NEAR(loss.item() / 4, one["loss"].get<double>(), 2e-5) << "case " << i;
      tape.backward(loss, Tensor::full({}, 0.25, DType::f32, test_device()));
      for (const Adapter::Entry& entry : adapter->entries()) {
        for (const Parameter* parameter : {&entry.a, &entry.b}) {
          const SafetensorsEntry* reference = gradients.find(std::to_string(i) + "." + parameter->name());
          ASSERT_NE(reference, nullptr) << parameter->name();
          const double error = testing::relative_error(parameter->grad().to(Device::cpu()), load_tensor(*reference));
          EXPECT_LE(error, 2e-4) << parameter->name() << " of case " << i;
          ++compared;
        }
      }
    }
    EXPECT_EQ(compared, gradients.entries().size());
  }
}

// With equal texts, so that candidates are left out.
TEST_F(Contrastive, GradientsOfTheLossMatchFiniteDifferencesInF64) {
  const std::vector<std::int32_t> pairs = {0, 1, 2, 0, 4, 5, 6, 5, 8, 9};
  const std::vector<std::int32_t> triplets = {0, 1, 2, 0, 4, 5, 6, 5, 8, 9, 10, 5, 12, 13, 9};
  for (const std::vector<std::int32_t>& texts : {pairs, triplets}) {
    for (const bool symmetric : {false, true}) {
      const ContrastiveOptions options{.temperature = 0.2, .symmetric = symmetric};
      const Tensor at = random({std::ssize(texts), 6}, DType::f64);
      const auto loss = [&](const Tensor& vectors) { return contrastive_loss(vectors, numbers(texts), 5, options); };
      const Parameter x("x", at.clone());
      Tape tape;
      tape.backward(loss(x.value()), Tensor::full({}, 1, DType::f64));
      constexpr double kStep = 1e-5;
      for (std::int64_t i = 0; i < at.numel(); ++i) {
        const auto moved = [&](double by) {
          const Tensor t = at.clone();
          t.data<double>()[i] += by;
          return loss(t).item();
        };
        const double slope = (moved(kStep) - moved(-kStep)) / (2 * kStep);
        EXPECT_NEAR(x.grad().data<double>()[i], slope, 1e-6) << "element " << i << ", symmetric " << symmetric;
      }
    }
  }
}

// From the factors of the adapter through encoder, pooling and loss. Factors are f32, so the direction is one of few
// bits and the step a power of two: both sides are then exact.
TEST_F(Contrastive, GradientsOfTheAdapterMatchFiniteDifferencesInF64) {
  EmbeddingModel model = EmbeddingModel::load(folder_, {.dtype = DType::f64});
  const std::vector<ModuleInfo>& modules = model.linear_modules();
  const auto adapter = std::make_shared<const Adapter>(load_adapter(folder_ / "adapter", modules), modules);
  const Tensor values = adapter->values();
  const Tensor start = values.clone();
  constexpr float kGrid = 1.0F / (1 << 18);  // every value and every moved one is a multiple of it
  for (std::int64_t i = 0; i < start.numel(); ++i)
    start.data<float>()[i] = std::round(start.data<float>()[i] / kGrid) * kGrid;
  model.attach(adapter);
  const TokenBatch tokens = batch(model, 3);
  const auto loss = [&] { return contrastive_loss(model.pooled(tokens), different(12), 4, {.temperature = 0.5}); };
  const auto at = [&](const Tensor& direction, double step) {
    for (std::int64_t i = 0; i < start.numel(); ++i) {
      values.data<float>()[i] = static_cast<float>(start.data<float>()[i] + step * direction.data<float>()[i]);
    }
    model.refresh_adapter();
    const NoGrad no_grad;
    return loss().item();
  };
  for (std::uint32_t which = 1; which <= 4; ++which) {
    const Tensor direction = random({start.numel()}, DType::f32, which);
    for (std::int64_t i = 0; i < start.numel(); ++i) {
      direction.data<float>()[i] = direction.data<float>()[i] > 0 ? 1.0F : -1.0F;
    }
    (void)at(direction, 0);
    adapter->zero_grad();
    {
      Tape tape;
      tape.backward(loss(), Tensor::full({}, 1, DType::f64));
    }
    double slope = 0;
    for (std::int64_t i = 0; i < start.numel(); ++i) {
      slope += static_cast<double>(adapter->gradients().data<float>()[i]) * direction.data<float>()[i];
    }
    constexpr double kStep = 1.0 / (1 << 12);
    // Two central differences, extrapolated to a step of 0.
    const double wide = (at(direction, 2 * kStep) - at(direction, -2 * kStep)) / (4 * kStep);
    const double narrow = (at(direction, kStep) - at(direction, -kStep)) / (2 * kStep);
    const double expected = (4 * narrow - wide) / 3;
    EXPECT_NEAR(slope, expected, 2e-6 * std::max(1.0, std::abs(expected))) << "direction " << which;
  }
}

TEST_F(Contrastive, EqualTextsAreNoWrongAnswers) {
  const Tensor vectors = random({6, 5}, DType::f32);
  const auto loss = [&](const std::vector<std::int32_t>& texts) {
    return contrastive_loss(vectors, numbers(texts), 3).item();
  };
  std::vector<std::vector<double>> cosine(3, std::vector<double>(3));
  for (std::size_t i = 0; i < 3; ++i) {
    for (std::size_t j = 0; j < 3; ++j) {
      const float* a = vectors.data<float>() + i * 5;
      const float* b = vectors.data<float>() + (3 + j) * 5;
      cosine[i][j] = std::inner_product(a, a + 5, b, 0.0) /
                     std::sqrt(std::inner_product(a, a + 5, a, 0.0) * std::inner_product(b, b + 5, b, 0.0));
    }
  }
  const auto row = [&](std::size_t i, std::initializer_list<std::size_t> candidates) {
    double sum = 0;
    for (const std::size_t j : candidates) sum += std::exp(20 * cosine[i][j]);
    return std::log(sum) - 20 * cosine[i][i];
  };
  EXPECT_NEAR(loss({0, 1, 2, 3, 4, 5}), row(0, {0, 1, 2}) + row(1, {0, 1, 2}) + row(2, {0, 1, 2}), 1e-4);
  // Rows 0 and 2 have the same positive; then rows 0 and 1 the same anchor.
  EXPECT_NEAR(loss({0, 1, 2, 3, 4, 3}), row(0, {0, 1}) + row(1, {0, 1, 2}) + row(2, {1, 2}), 1e-4);
  EXPECT_NEAR(loss({0, 0, 2, 3, 4, 5}), row(0, {0, 2}) + row(1, {1, 2}) + row(2, {0, 1, 2}), 1e-4);
  EXPECT_EQ(loss({0, 0, 0, 3, 3, 3}), 0);
}

TEST_F(Contrastive, RecallCountsTheFirstOfTheNearest) {
  // Anchors along the axes; positives near them but the last, whose nearest is that of the first.
  const Tensor vectors = Tensor::from(std::vector<float>{1, 0, 0, 1, 1, 0, 2, 0.1F, 0, 3, 0, 5}, {6, 2});
  EXPECT_DOUBLE_EQ(recall_at_1(vectors, numbers({0, 1, 2, 3, 4, 5}), 3), 2.0 / 3);
  EXPECT_DOUBLE_EQ(recall_at_1(vectors, numbers({0, 1, 2, 3, 4, 3}), 3), 1);  // an equal text is right
  EXPECT_DOUBLE_EQ(recall_at_1(vectors, numbers({0, 1, 0, 3, 4, 5}), 3), 1);  // and the positive of an equal anchor
}

TEST_F(Contrastive, RefusesShapesThatDoNotFit) {
  const Tensor vectors = random({6, 5}, DType::f32);
  const auto refused = [&](std::string_view part, std::size_t texts, std::int64_t rows, ContrastiveOptions options) {
    expect_refused(part, [&] { (void)contrastive_loss(vectors, different(texts), rows, options); });
  };
  refused("expected 2 or 3 for each of 4 rows", 6, 4, {});
  refused("expected 2 or 3 for each of 3 rows", 5, 3, {});
  refused("temperature is 0, expected more than 0", 6, 3, {.temperature = 0});
}

class Pairs : public Contrastive {
 protected:
  PairDataset read(const std::string& lines, const PairOptions& options = {}) const {
    write_file(dir_ / "pairs.jsonl", lines);
    return PairDataset::from_file(dir_ / "pairs.jsonl", model_, options);
  }
  void refused(std::string_view part, const std::string& lines) const {
    expect_error(ErrorCode::format, part, [&] { (void)read(lines); });
  }
  EmbeddingModel model_ = EmbeddingModel::load(folder_);
};

TEST_F(Pairs, EveryFormAndEqualTexts) {
  const PairDataset pairs = read(
      "{\"anchor\": \"a b\", \"positive\": \"c\", \"score\": 1}\n"
      "{\"query\": \"c\", \"positive\": \"a b\", \"negative\": null}\n"
      "{\"sentence1\": \"e\", \"sentence2\": \"f\"}\n");
  EXPECT_EQ(pairs.size(), 3);
  EXPECT_EQ(pairs.columns(), 2);
  EXPECT_EQ(pairs.text(0, 0), pairs.text(1, 1));
  EXPECT_EQ(pairs.text(0, 1), pairs.text(1, 0));
  EXPECT_EQ(pairs.tokens(pairs.text(2, 1)), model_.tokenize("f"));
  EXPECT_EQ(pairs.report().texts, 4);
  EXPECT_EQ(pairs.report().rows, 3);
  EXPECT_EQ(pairs.report().truncated, 0);
  const PairDataset triplets = read(
      "{\"query\": \"a\", \"positive\": \"b\", \"negative\": \"c\"}\n"
      "{\"anchor\": \"d\", \"positive\": \"e\", \"negative\": \"b\"}\n");
  EXPECT_EQ(triplets.columns(), 3);
  EXPECT_EQ(triplets.text(0, 1), triplets.text(1, 2));
  EXPECT_NE(triplets.fingerprint(), pairs.fingerprint());
}

TEST_F(Pairs, PromptsStandBeforeTheirTexts) {
  const PairDataset pairs = read("{\"anchor\": \"a\", \"positive\": \"a\"}\n{\"anchor\": \"b\", \"positive\": \"b\"}\n",
                                 {.anchor_prompt = "query: ", .passage_prompt = "passage: "});
  EXPECT_EQ(pairs.tokens(pairs.text(0, 0)), model_.tokenize("query: a"));
  EXPECT_EQ(pairs.tokens(pairs.text(0, 1)), model_.tokenize("passage: a"));
}

TEST_F(Pairs, LongTextsAreCut) {
  std::string longer;
  for (int i = 0; i < 60; ++i) longer += "a ";
  const std::string lines =
      "{\"anchor\": \"" + longer + "\", \"positive\": \"a b c\"}\n{\"anchor\": \"a b\", \"positive\": \"b c d e\"}\n";
  const PairDataset whole = read(lines);
  EXPECT_EQ(std::ssize(whole.tokens(whole.text(0, 0))), model_.max_tokens());
  EXPECT_EQ(whole.report().truncated, 1);
  const PairDataset cut = read(lines, {.max_tokens = 5});  // three tokens and the two special ones
  EXPECT_EQ(std::ssize(cut.tokens(cut.text(0, 0))), 5);
  EXPECT_EQ(std::ssize(cut.tokens(cut.text(1, 0))), 4);
  EXPECT_EQ(cut.tokens(cut.text(1, 1)).back(), model_.tokenize("a").back());
  EXPECT_EQ(cut.report().truncated, 2);
}

TEST_F(Pairs, RefusesRowsByTheirLine) {
  const std::string good = "{\"anchor\": \"a\", \"positive\": \"b\"}\n";
  refused("pairs.jsonl: holds 1 rows, expected 2 or more", good);
  refused("pairs.jsonl:2: the row has none of \"anchor\", \"query\" and \"sentence1\"", good + "{\"text\": \"a\"}\n");
  refused("pairs.jsonl:2: the row has several of", good + "{\"anchor\": \"a\", \"query\": \"b\"}\n");
  refused("positive", good + good + "{\"anchor\": \"a\"}\n");
  refused("pairs.jsonl:3", good + good + "{\"anchor\": \"a\"}\n");
  refused("pairs.jsonl:3", good + good + "{\"sentence1\": \"a\", \"positive\": \"b\"}\n");
  refused("pairs.jsonl:2", good + "{\"anchor\": 3, \"positive\": \"b\"}\n");
  refused("pairs.jsonl:2", good + "[1]\n");
  refused("pairs.jsonl:2: the row has 3 texts, expected 2 as in line 1",
          good + "{\"anchor\": \"a\", \"positive\": \"b\", \"negative\": \"c\"}\n");
  expect_error(ErrorCode::io, "has no train.jsonl", [&] { (void)load_pairs(folder_, model_); });
}

TEST_F(Pairs, AFolderHasTrainAndValid) {
  fs::create_directory(dir_ / "data");
  const std::string pair = "{\"anchor\": \"a\", \"positive\": \"b\"}\n";
  const std::string triplet = "{\"anchor\": \"a\", \"positive\": \"b\", \"negative\": \"c\"}\n";
  write_file(dir_ / "data" / "train.jsonl", pair + pair + pair);
  EXPECT_FALSE(load_pairs(dir_ / "data", model_).valid.has_value());
  write_file(dir_ / "data" / "valid.jsonl", pair + pair);
  EXPECT_EQ(load_pairs(dir_ / "data", model_).valid->size(), 2);
  write_file(dir_ / "data" / "valid.jsonl", triplet + triplet);
  expect_error(ErrorCode::format, "valid.jsonl: rows have 3 texts", [&] { (void)load_pairs(dir_ / "data", model_); });
}

}  // namespace
}  // namespace wick::test
