// Steps that are recorded and replayed, against the same steps launch by launch: of many shapes, which share memory.
#include "train/device_step.h"

#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/work.h"
#include "op_matrix.h"
#include "wick/adapter.h"
#include "wick/model.h"
#include "wick/train.h"

namespace wick::testing {
namespace {

constexpr int kSteps = 40;

ModelConfig small_model(std::int64_t head_dim) {
  ModelConfig c;
  c.hidden_size = 128;
  c.intermediate_size = 256;
  c.num_hidden_layers = 3;
  c.num_attention_heads = 4;
  c.num_key_value_heads = 2;
  c.head_dim = head_dim;
  c.vocab_size = 512;
  c.tie_word_embeddings = true;
  c.sliding_window.assign(3, 0);
  c.rope.theta = 10000;
  return c;
}

// Rows of 20 to 420 tokens, so that batches of two have some ten shapes, in an order that comes back to each.
Dataset rows() {
  std::vector<Example> examples(24);
  for (std::size_t i = 0; i < examples.size(); ++i) {
    const std::size_t length = 20 + 37 * i % 401;
    for (std::size_t t = 0; t < length; ++t) {
      examples[i].ids.push_back(static_cast<std::int32_t>((7 * t + 13 * i) % 512));
    }
    examples[i].labels = examples[i].ids;
  }
  return Dataset::from_examples(std::move(examples));
}

struct Trained {
  std::vector<double> losses;
  std::vector<float> values;  // of the adapter
  std::vector<int> replays;   // of graphs, by step, where they are counted
};

// Counts the graphs that are launched. While somebody listens no kernel begins before the one ahead of it has ended.
class Replays final : public WorkListener {
 public:
  Replays() { work_listener() = this; }
  ~Replays() override { work_listener() = nullptr; }
  void begin(const Work& work) override { count += work.name == std::string_view("recorded graph") ? 1 : 0; }
  void end() noexcept override {}

  int count = 0;
};

// Each batch is accumulated `times` times.
Trained train(std::int64_t head_dim, bool record, int times, bool counts = false) {
  const Device device = test_device();
  Decoder model = Decoder::random(small_model(head_dim), {.dtype = DType::bf16, .device = device}, 5);
  LoraConfig lora;
  lora.rank = 8;
  lora.target_modules = ModuleSelector("all-linear");
  const auto adapter =
      std::make_shared<const Adapter>(init_adapter(lora, model.linear_modules(), 1), model.linear_modules(), device);
  model.attach(adapter, LoraLayout::bordered);
  const Dataset data = rows();
  TrainOptions options;
  options.batches.batch_size = 2;
  options.batches.shuffle = false;
  const std::unique_ptr<TrainTask> task = make_lm_task(model, data, nullptr, options);
  const Tensor exp_avg = Tensor::zeros({adapter->parameter_count()}, DType::f32, device);
  const Tensor exp_avg_sq = Tensor::zeros({adapter->parameter_count()}, DType::f32, device);
  const auto step = make_train_step(*task, *adapter, exp_avg, exp_avg_sq, {.record = record});
  Trained result;
  for (int i = 0; i < kSteps; ++i) {
    const Batch batch = task->next();
    const auto pass = static_cast<std::uint32_t>(i);
    std::optional<Replays> replays;
    if (counts) replays.emplace();
    step->begin(times * batch.trained_tokens);
    for (int k = 1; k < times; ++k) step->accumulate(batch, pass);
    result.losses.push_back(step->update(batch, pass, 1e-3, i + 1).loss);
    if (counts) result.replays.push_back(replays->count);
  }
  result.values = adapter->values().to_vector<float>();
  return result;
}

// Heads of 64 and 128 have kernels of their own, and cuDNN's.
class DeviceStepCuda : public ::testing::TestWithParam<std::int64_t> {};

// Each batch `times` times in a step.
void expect_replays_are_launches(std::int64_t head_dim, int times) {
  if (test_device().type != DeviceType::cuda) GTEST_SKIP() << "WICK_TEST_DEVICE names no GPU";
  const Trained launched = train(head_dim, false, times);
  const Trained replayed = train(head_dim, true, times);
  EXPECT_EQ(replayed.losses, launched.losses);
  ASSERT_EQ(replayed.values.size(), launched.values.size());
  EXPECT_EQ(std::memcmp(replayed.values.data(), launched.values.data(), 4 * launched.values.size()), 0);
  EXPECT_LT(launched.losses[36], launched.losses[0]);  // the same rows, three epochs later
}

TEST_P(DeviceStepCuda, ReplaysOfManyShapesAreTheSameBytesAsLaunches) { expect_replays_are_launches(GetParam(), 1); }

TEST_P(DeviceStepCuda, ReplaysOfAccumulatedBatchesAreTheSameBytesAsLaunches) {
  expect_replays_are_launches(GetParam(), 3);
}

// All shapes have come in the first twelve steps, and are recorded in the next.
TEST_P(DeviceStepCuda, AStepIsOneGraphAndOneForEachBatchBeforeItsLast) {
  if (test_device().type != DeviceType::cuda) GTEST_SKIP() << "WICK_TEST_DEVICE names no GPU";
  for (const int batches : {1, 3}) {
    const Trained replayed = train(GetParam(), true, batches, true);
    for (std::size_t i = 12; i < kSteps; ++i) EXPECT_EQ(replayed.replays[i], batches) << "step " << i;
  }
  EXPECT_EQ(train(GetParam(), false, 1, true).replays, std::vector<int>(kSteps, 0));
}

INSTANTIATE_TEST_SUITE_P(Heads, DeviceStepCuda, ::testing::Values(32, 64, 128),
                         [](const auto& info) { return "of_" + std::to_string(info.param); });

}  // namespace
}  // namespace wick::testing
