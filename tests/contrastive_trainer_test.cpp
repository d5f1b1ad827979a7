// Contrastive runs of the tiny encoder: what they learn, how they resume, what they refuse.
#include <gtest/gtest.h>

#include <atomic>

#include "core/rng.h"
#include "io/json.h"
#include "io_test_util.h"
#include "op_matrix.h"
#include "train/metrics.h"
#include "wick/train.h"

namespace wick::test {
namespace {

namespace fs = std::filesystem;
using testing::test_device;

// Rows whose texts share a letter among digits that mean nothing: a random model is misled by them.
std::string rows_of_letters(int count, std::uint32_t which) {
  Rng rng(9, {RandomPurpose::shuffle, which});
  std::string lines;
  const auto text = [&](char letter) {
    std::string words;
    const std::uint64_t place = rng.below(5);
    for (std::uint64_t i = 0; i < 5; ++i) {
      words += std::string(1, i == place ? letter : static_cast<char>('0' + rng.below(10))) + " ";
    }
    return words;
  };
  for (int i = 0; i < count; ++i) {
    const char letter = static_cast<char>('a' + i % 20);
    lines += "{\"anchor\": \"" + text(letter) + "\", \"positive\": \"" + text(letter) + "\"}\n";
  }
  return lines;
}

class ContrastiveTrainer : public ::testing::Test {
 protected:
  ContrastiveTrainer() {
    fs::copy(fs::path(WICK_TEST_DATA) / "encoder", dir_ / "model", fs::copy_options::recursive);
    fs::copy_file(fs::path(WICK_TEST_DATA) / "tokenizer" / "bert.json", dir_ / "model" / "tokenizer.json");
    write_file(dir_ / "train.jsonl", rows_of_letters(200, 0));
    write_file(dir_ / "valid.jsonl", rows_of_letters(20, 1));
    lora_.rank = 4;
    lora_.target_modules = "all-linear";
    options_.iters = 12;
    options_.batches.batch_size = 16;
    options_.schedule.learning_rate = 0.01;
    options_.steps_per_eval = 6;
    options_.max_grad_norm = 1;
  }
  EmbeddingModel load(DType dtype = DType::f32) const {
    return EmbeddingModel::load(dir_ / "model", {.dtype = dtype, .device = test_device()});
  }
  TrainResult run(const std::string& out, DType dtype = DType::f32, bool resume = false) const {
    EmbeddingModel model = load(dtype);
    const PairSplits data = load_pairs(dir_.path(), model);
    const std::vector<ModuleInfo>& modules = model.linear_modules();
    const auto adapter = std::make_shared<const Adapter>(init_adapter(lora_, modules, 1), modules, test_device());
    model.attach(adapter);
    Trainer trainer(model, adapter, data.train, &*data.valid, contrastive_, options_, dir_ / out);
    if (resume) trainer.resume();
    return trainer.run();
  }
  void refused(ErrorCode code, std::string_view part) const {
    expect_error(code, part, [&] { (void)run("refused"); });
  }
  std::string bytes(const std::string& path) const { return read_file(dir_ / path); }

  TempDir dir_;
  LoraConfig lora_;
  ContrastiveOptions contrastive_;
  TrainOptions options_;
};

TEST_F(ContrastiveTrainer, HeldOutPairsAreFoundMoreOften) {
  options_.iters = 150;
  options_.steps_per_eval = 50;
  for (const DType dtype : {DType::f32, DType::bf16}) {
    SCOPED_TRACE(to_string(dtype));
    const TrainResult result = run("out", dtype);
    EXPECT_LT(*result.last_val_loss, 0.7 * *result.first_val_loss);
    EXPECT_LE(*result.first_val_recall_at_1, 0.5);
    EXPECT_GE(*result.last_val_recall_at_1, *result.first_val_recall_at_1 + 0.3);
    const std::vector<Metrics> rows = read_metrics(dir_ / "out" / "metrics.jsonl");
    EXPECT_EQ(rows.front().val_recall_at_1, result.first_val_recall_at_1);
    EXPECT_EQ(rows.back().val_recall_at_1, result.last_val_recall_at_1);
    EXPECT_FALSE(rows[1].val_recall_at_1.has_value());
    EXPECT_NE(bytes("out/loss.svg").find("loss, nats per row"), std::string::npos);
  }
}

// The adapter that was written gives the vectors of the run's last validation.
TEST_F(ContrastiveTrainer, TheWrittenAdapterIsTheTrainedOne) {
  const TrainResult result = run("out");
  EmbeddingModel model = load();
  const std::vector<ModuleInfo>& modules = model.linear_modules();
  model.attach(std::make_shared<const Adapter>(load_adapter(dir_ / "out", modules), modules, test_device()));
  const PairDataset valid = PairDataset::from_file(dir_ / "valid.jsonl", model);
  std::vector<std::vector<TokenId>> sequences;
  std::vector<std::int32_t> texts;
  for (std::int64_t column = 0; column < 2; ++column) {
    for (std::int64_t row = 0; row < 16; ++row) {
      texts.push_back(valid.text(row, column));
      sequences.push_back(valid.tokens(texts.back()));
    }
  }
  const Tensor vectors = model.pooled(TokenBatch::packed(sequences));
  const Tensor numbers = Tensor::from(texts, {std::ssize(texts)});
  EXPECT_EQ(contrastive_loss(vectors, numbers, 16).item() / 16, *result.last_val_loss);
  EXPECT_EQ(recall_at_1(vectors, numbers, 16), *result.last_val_recall_at_1);
}

TEST_F(ContrastiveTrainer, ResumesBitForBit) {
  lora_.dropout = 0.1;
  contrastive_.symmetric = true;
  options_.grad_accumulation_steps = 2;
  const TrainResult whole = run("whole");
  const std::atomic<bool> stop = true;
  options_.iters = 5;
  (void)run("parts");
  options_.iters = 12;
  options_.stop = &stop;
  EXPECT_THROW((void)run("parts", DType::f32, true), Error);
  options_.stop = nullptr;
  const TrainResult parts = run("parts", DType::f32, true);
  EXPECT_EQ(bytes("parts/adapter_model.safetensors"), bytes("whole/adapter_model.safetensors"));
  EXPECT_EQ(parts.final_loss, whole.final_loss);
  EXPECT_EQ(parts.first_val_recall_at_1, whole.first_val_recall_at_1);
  EXPECT_EQ(parts.last_val_recall_at_1, whole.last_val_recall_at_1);

  contrastive_.temperature = 0.1;
  expect_refused("--resume: --temperature was 0.05, now it is 0.1", [&] { (void)run("parts", DType::f32, true); });
  contrastive_.temperature = 0.05;
  write_file(dir_ / "train.jsonl", rows_of_letters(40, 2));
  expect_refused("--resume: the training data is not that", [&] { (void)run("parts", DType::f32, true); });
}

TEST_F(ContrastiveTrainer, RefusesWhatHasNoMeaningHere) {
  options_.batches.batch_size = 1;
  refused(ErrorCode::invalid_argument, "--batch-size is 1, expected 2 or more");
  options_.batches.batch_size = 4;
  options_.label_smoothing = 0.1;
  refused(ErrorCode::unsupported, "contrastive training has no --label-smoothing");
  options_.label_smoothing = 0;
  options_.batches.batch_tokens = 4096;
  refused(ErrorCode::unsupported, "contrastive training has no --batch-tokens");
  options_.batches.batch_tokens = 0;
  options_.batches.pack = false;
  refused(ErrorCode::unsupported, "contrastive training has no --no-pack");
  options_.batches.pack = true;
  contrastive_.temperature = -1;
  refused(ErrorCode::invalid_argument, "--temperature is -1, expected more than 0");
}

}  // namespace
}  // namespace wick::test
