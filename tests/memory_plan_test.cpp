// The memory plan against what a step really takes: the tensors' peak, on the CPU or the device of WICK_TEST_DEVICE.
#include "train/memory_plan.h"

#include <gtest/gtest.h>

#include "expect_error.h"
#include "op_matrix.h"
#include "train/train_step.h"
#include "wick/adapter.h"
#include "wick/data.h"
#include "wick/lora.h"

namespace wick::testing {
namespace {

ModelConfig shape(std::int64_t hidden, std::int64_t intermediate, std::int64_t heads, std::int64_t kv_heads,
                  std::int64_t layers, std::int64_t vocab) {
  ModelConfig c;
  c.vocab_size = vocab;
  c.hidden_size = hidden;
  c.intermediate_size = intermediate;
  c.num_hidden_layers = layers;
  c.num_attention_heads = heads;
  c.num_key_value_heads = kv_heads;
  c.head_dim = hidden / heads;
  c.max_position_embeddings = 4096;
  c.tie_word_embeddings = true;
  c.sliding_window.assign(static_cast<std::size_t>(layers), 0);
  return c;
}

struct Case {
  const char* name;
  ModelConfig config;
  std::int64_t tokens;  // in each of two sequences
  DType dtype;
  LoraLayout layout;
  const char* targets;
  std::vector<Recompute> recompute;
};
void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

class PlanTest : public ::testing::TestWithParam<Case> {};

TEST_P(PlanTest, WithinATenthOfThePeak) {
  const Case& c = GetParam();
  const Device device = test_device();
  const auto percent = [](std::size_t planned, std::size_t found) {
    return 100.0 * (static_cast<double>(planned) / static_cast<double>(found) - 1);
  };
  const std::size_t start = memory_stats(device).current;
  Decoder model = Decoder::random(c.config, {.dtype = c.dtype, .device = device});
  LoraConfig lora;
  lora.rank = 8;
  lora.target_modules = ModuleSelector(c.targets);
  const auto adapter =
      std::make_shared<const Adapter>(init_adapter(lora, model.linear_modules(), 1), model.linear_modules(), device);
  model.attach(adapter, c.layout);
  model.set_recompute(c.recompute);
  std::vector<Example> examples(2);
  for (Example& example : examples) {
    for (std::int64_t i = 0; i < c.tokens; ++i)
      example.ids.push_back(static_cast<std::int32_t>(i % c.config.vocab_size));
    example.labels = example.ids;
  }
  const Dataset data = Dataset::from_examples(std::move(examples));
  TrainOptions options;
  options.batches.batch_size = 2;
  const std::unique_ptr<TrainTask> task = make_lm_task(model, data, nullptr, options);
  const Tensor exp_avg = Tensor::zeros({adapter->parameter_count()}, DType::f32, device);
  const Tensor exp_avg_sq = Tensor::zeros({adapter->parameter_count()}, DType::f32, device);
  const auto step =
      make_train_step(*task, *adapter, exp_avg, exp_avg_sq, {.token_budget = 2 * c.tokens, .record = false});
  const Batch batch = task->next();
  const auto run = [&](std::uint32_t number) {
    step->begin(batch.trained_tokens);
    (void)step->update(batch, number, 1e-4, number + 1);
  };
  // What stays of a first step is the scratch memory of the CPU's GEMM library, which nobody plans.
  const std::size_t at_rest = memory_stats(device).current;
  run(0);
  const std::size_t before = memory_stats(device).current;
  const std::size_t scratch = before - at_rest;
  reset_peak_memory(device);
  run(1);
  const std::size_t peak = memory_stats(device).peak;

  const MemoryPlan plan = plan_memory(
      c.config, resolve_targets(lora, model.linear_modules()),
      {.dtype = c.dtype, .device = device.type, .layout = c.layout, .tokens = 2 * c.tokens, .recompute = c.recompute});
  EXPECT_NEAR(percent(plan.step(), peak - before), 0, 10) << plan.step() << " planned, " << peak - before << " found";
  EXPECT_NEAR(percent(plan.total() - plan.workspace, peak - start - scratch), 0, 10);
  RecordProperty("step_percent", std::to_string(percent(plan.step(), peak - before)));
  std::printf("%s: step %+.1f %%, in all %+.1f %%\n", c.name, percent(plan.step(), peak - before),
              percent(plan.total() - plan.workspace, peak - start - scratch));
}

std::vector<Recompute> all(Recompute level) { return std::vector<Recompute>(4, level); }
constexpr auto kSeparate = LoraLayout::separate;
constexpr auto kBordered = LoraLayout::bordered;
const ModelConfig kWide = shape(128, 448, 4, 2, 4, 512);
const ModelConfig kNormed = [] {
  ModelConfig c = kWide;
  c.qk_norm = true;
  return c;
}();
const ModelConfig kTall = shape(192, 384, 6, 6, 4, 2000);
// Their attention is that of large models: cuDNN's and Hopper's on a GPU.
const ModelConfig kHeads64 = shape(512, 1024, 8, 2, 4, 512);
const ModelConfig kHeads128 = shape(512, 1024, 4, 2, 4, 512);
const std::vector<Recompute> kMixed = {Recompute::layer, Recompute::gate_up, Recompute::activations,
                                       Recompute::nothing};

INSTANTIATE_TEST_SUITE_P(
    Shapes, PlanTest,
    ::testing::Values(
        Case{"kept_f32", kWide, 256, DType::f32, kSeparate, "all-linear", all(Recompute::nothing)},
        Case{"kept_bf16", kTall, 200, DType::bf16, kSeparate, "all-linear", all(Recompute::nothing)},
        Case{"activations_f32", kWide, 256, DType::f32, kBordered, "all-linear", all(Recompute::activations)},
        Case{"activations_bf16", kWide, 256, DType::bf16, kBordered, "all-linear", all(Recompute::activations)},
        Case{"gate_up_f32", kWide, 256, DType::f32, kBordered, "all-linear", all(Recompute::gate_up)},
        Case{"gate_up_bf16", kTall, 256, DType::bf16, kSeparate, "all-linear", all(Recompute::gate_up)},
        Case{"layer_f32", kWide, 256, DType::f32, kSeparate, "all-linear", all(Recompute::layer)},
        Case{"layer_bf16", kWide, 256, DType::bf16, kBordered, "all-linear", all(Recompute::layer)},
        Case{"mixed_f32", kTall, 256, DType::f32, kBordered, "all-linear", kMixed},
        Case{"qk_norm_f32", kNormed, 256, DType::f32, kSeparate, "all-linear", all(Recompute::nothing)},
        Case{"qk_norm_bf16", kNormed, 256, DType::bf16, kBordered, "all-linear", all(Recompute::gate_up)},
        Case{"heads_64_bf16", kHeads64, 512, DType::bf16, kBordered, "all-linear", all(Recompute::activations)},
        Case{"heads_64_layer_bf16", kHeads64, 300, DType::bf16, kBordered, "all-linear", all(Recompute::layer)},
        Case{"heads_128_bf16", kHeads128, 512, DType::bf16, kBordered, "all-linear", all(Recompute::activations)},
        Case{"heads_128_kept_bf16", kHeads128, 333, DType::bf16, kBordered, "all-linear", all(Recompute::nothing)},
        Case{"attention_only_f32", kWide, 256, DType::f32, kSeparate, ".*(q_proj|v_proj)", all(Recompute::nothing)}),
    [](const auto& info) { return info.param.name; });

TEST(ChooseRecompute, TakesTheLeastThatFits) {
  const ModelConfig c = kWide;
  LoraConfig lora;
  lora.target_modules = ModuleSelector("all-linear");
  const std::vector<LoraTarget> targets = resolve_targets(lora, linear_modules(c));
  PlanSettings settings{.tokens = 4096, .recompute = all(Recompute::nothing)};
  const auto total = [&](const std::vector<Recompute>& each) {
    PlanSettings with = settings;
    with.recompute = each;
    return plan_memory(c, targets, with).total();
  };
  EXPECT_EQ(choose_recompute(c, targets, settings, total(settings.recompute)), settings.recompute);
  std::vector<Recompute> one = settings.recompute;
  one[0] = Recompute::gate_up;
  EXPECT_EQ(choose_recompute(c, targets, settings, total(settings.recompute) - 1), one);
  EXPECT_EQ(choose_recompute(c, targets, settings, total(all(Recompute::layer))), all(Recompute::layer));
  test::expect_error(ErrorCode::out_of_memory, "GiB may be used",
                     [&] { choose_recompute(c, targets, settings, total(all(Recompute::layer)) / 2); });
}

TEST(MemoryPlan, RefusesAnotherNumberOfLayers) {
  test::expect_refused("a plan of recomputation for 3 layers, the model has 4", [] {
    plan_memory(kWide, {}, {.tokens = 1, .recompute = std::vector<Recompute>(3, Recompute::nothing)});
  });
}

}  // namespace
}  // namespace wick::testing
