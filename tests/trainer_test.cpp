// What a run remembers: where it ends, what a continued one does, and what is left in its folder.
#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <limits>

#include "io_test_util.h"
#include "wick/error.h"
#include "wick/train.h"

namespace wick::test {
namespace {

namespace fs = std::filesystem;

class TrainerTest : public ::testing::Test {
 protected:
  TrainerTest() {
    config_.rank = 2;
    config_.target_modules = std::vector<std::string>{"q_proj", "v_proj"};
    options_.iters = 6;
    options_.batches.batch_size = 2;
    options_.schedule.learning_rate = 0;  // no validation is better than the first
    options_.steps_per_eval = 1;
    options_.val_batches = 1;
    options_.patience = 2;
  }

  TrainResult run(const std::string& out, bool resume = false) {
    const auto adapter =
        std::make_shared<const Adapter>(init_adapter(config_, model_.linear_modules(), 1), model_.linear_modules());
    if (poison_)
      adapter->values().copy_from(
          Tensor::full(adapter->values().shape(), std::numeric_limits<double>::infinity(), DType::f32));
    model_.attach(adapter);
    Trainer trainer(model_, adapter, data_, &data_, options_, folder_ / out);
    if (resume) trainer.resume();
    return trainer.run();
  }
  ErrorCode refused(const std::string& out) {
    try {
      (void)run(out);
    } catch (const Error& error) {
      return error.code();
    }
    ADD_FAILURE() << "no error";
    return ErrorCode::io;
  }

  fs::path golden_ = fs::path(WICK_TEST_DATA) / "golden" / "llama-gqa";
  Decoder model_ = Decoder::load(golden_ / "model");
  Dataset data_ = Dataset::from_file(golden_ / "rows.jsonl", {.vocab_size = model_.config().vocab_size});
  LoraConfig config_;
  TrainOptions options_;
  bool poison_ = false;
  TempDir folder_;
};

TEST_F(TrainerTest, PatienceThatIsAtItsEndStaysThere) {
  const TrainResult first = run("out");
  EXPECT_EQ(first.steps, 2);
  EXPECT_TRUE(first.stopped_early);
  const TrainResult again = run("out", true);
  EXPECT_EQ(again.steps, 2);
  EXPECT_TRUE(again.stopped_early);
  EXPECT_EQ(again.final_loss, first.final_loss);
  options_.patience = 3;  // more of it goes on
  EXPECT_EQ(run("out", true).steps, 3);
}

TEST_F(TrainerTest, StoppedBeforeItsFirstStep) {
  const std::atomic<bool> stop = true;
  options_.stop = &stop;
  EXPECT_EQ(refused("out"), ErrorCode::interrupted);
  options_.stop = nullptr;
  EXPECT_EQ(run("out", true).steps, run("whole").steps);  // the first validation counts once
  EXPECT_EQ(read_file(folder_ / "out/checkpoint.safetensors"), read_file(folder_ / "whole/checkpoint.safetensors"));
}

TEST_F(TrainerTest, NoStepsAtAll) {
  options_.iters = 0;
  const TrainResult result = run("out");
  EXPECT_EQ(result.steps, 0);
  EXPECT_TRUE(result.first_val_loss.has_value());
  EXPECT_TRUE(fs::exists(folder_ / "out/adapter_model.safetensors"));
  EXPECT_EQ(run("out", true).steps, 0);
}

TEST_F(TrainerTest, TheBestIsOfThisRun) {
  options_.schedule.learning_rate = 0.01;
  EXPECT_GT(run("out").best_step, 0);
  options_.schedule.learning_rate = 0;
  EXPECT_EQ(run("out").best_step, 0);
  EXPECT_EQ(read_file(folder_ / "out/best/adapter_model.safetensors"),
            read_file(folder_ / "out/adapter_model.safetensors"));
}

TEST_F(TrainerTest, AValidationThatIsNotFiniteHasDiverged) {
  poison_ = true;
  EXPECT_EQ(refused("out"), ErrorCode::diverged);
}

TEST_F(TrainerTest, NothingToEvaluate) { EXPECT_THROW((void)evaluate(model_, {}), Error); }

TEST_F(TrainerTest, NoValidationWithoutBatches) {
  options_.val_batches = 0;
  const TrainResult result = run("out");
  EXPECT_EQ(result.steps, 6);
  EXPECT_FALSE(result.first_val_loss.has_value());
}

TEST_F(TrainerTest, ABatchNeedsAPositionForEachId) {
  TokenBatch batch = TokenBatch::single(std::vector<std::int32_t>{1, 2, 3});
  batch.positions = batch.positions.slice(0, 0, 2);
  EXPECT_THROW((void)model_.forward(batch), Error);
}

}  // namespace
}  // namespace wick::test
