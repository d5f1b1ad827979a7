// Siblings' gradients of a decoder lie side by side where the layer before them wants them: nothing joins them by a
// copy, and dx is one product where the adapter lies in the weight's border. Nor are the siblings copied out of the
// product that makes them, normed heads of queries and keys included. On the CPU or the device of WICK_TEST_DEVICE.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <string>
#include <tuple>
#include <vector>

#include "op_matrix.h"
#include "wick/adapter.h"
#include "wick/lora.h"
#include "wick/model.h"
#include "wick/ops.h"
#include "wick/profile.h"

namespace wick::testing {
namespace {

constexpr std::int64_t kTokens = 128;  // in each of two sequences: cuDNN joins dk and dv of other lengths by copies
constexpr std::int64_t kRank = 8;
constexpr int kLayers = 2;

ModelConfig shape(bool qk_norm) {
  ModelConfig c;
  c.vocab_size = 512;
  c.hidden_size = 256;
  c.intermediate_size = 448;
  c.num_hidden_layers = kLayers;
  c.num_attention_heads = 4;
  c.num_key_value_heads = 2;
  c.head_dim = 64;
  c.max_position_embeddings = 1024;
  c.qk_norm = qk_norm;
  c.tie_word_embeddings = true;
  c.sliding_window.assign(kLayers, 0);
  return c;
}

using Names = std::vector<std::string>;

// What the profile of a step names.
struct Step {
  Names forward, backward;
};
Step step(const ModelConfig& config, DType dtype, LoraLayout layout, Recompute level) {
  const Device device = test_device();
  Decoder model = Decoder::random(config, {.dtype = dtype, .device = device});
  LoraConfig lora;
  lora.rank = kRank;
  lora.target_modules = ModuleSelector("all-linear");
  const auto adapter =
      std::make_shared<const Adapter>(init_adapter(lora, model.linear_modules(), 1), model.linear_modules(), device);
  model.attach(adapter, layout);
  model.set_recompute(std::vector<Recompute>(kLayers, level));
  std::vector<std::int32_t> ids(kTokens);
  for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<std::int32_t>(i);
  const TokenBatch batch = TokenBatch::packed(std::vector<std::vector<std::int32_t>>{ids, ids});
  const auto names_of = [&](const std::function<void()>& work) {
    Profile profile(device);
    work();
    Names names;
    for (const KernelRecord& record : profile.stop()) names.push_back(record.name);
    return names;
  };
  Step result;
  Tape tape;
  Tensor hidden;
  result.forward = names_of([&] { hidden = model.forward(batch); });
  const Tensor loss = linear_cross_entropy(hidden, model.head(), batch.ids.to(device), CrossEntropyOptions{});
  result.backward = names_of([&] { tape.backward(loss); });
  adapter->require_gradients();
  return result;
}

std::ptrdiff_t copies(const Names& names) { return std::ranges::count(names, "copy"); }

class GradPlaceTest : public ::testing::TestWithParam<std::tuple<DType, LoraLayout, Recompute, bool>> {};

TEST_P(GradPlaceTest, NothingIsJoined) {
  const auto [dtype, layout, level, qk_norm] = GetParam();
  const ModelConfig c = shape(qk_norm);
  const Step found = step(c, dtype, layout, level);
  const Names& names = found.backward;
  EXPECT_EQ(copies(names), 0);
  if (test_device().type == DeviceType::cpu) {
    EXPECT_EQ(copies(found.forward), 0);
  } else if (qk_norm) {  // ids, positions and tables go there
    EXPECT_EQ(copies(found.forward), copies(step(shape(false), dtype, layout, level).forward));
  }
  if (layout != LoraLayout::bordered) return;
  // The products that give dx, of gradients and g side by side; the first layer's input needs none.
  const auto products = [&](std::int64_t in, std::int64_t out, std::int64_t ranks) {
    const std::int64_t border = (ranks + 15) / 16 * 16;
    return std::ranges::count(names, fmt::format("gemm {}x{}x{}", 2 * kTokens, in, out + border));
  };
  EXPECT_EQ(products(c.intermediate_size, c.hidden_size, kRank), kLayers) << "dz";
  EXPECT_EQ(products(c.hidden_size, 2 * c.intermediate_size, 2 * kRank), kLayers) << "of dgate and dup";
  EXPECT_EQ(products(c.hidden_size, 8 * c.head_dim, 3 * kRank), kLayers - 1) << "of dq, dk and dv";
}

INSTANTIATE_TEST_SUITE_P(Layers, GradPlaceTest,
                         ::testing::Combine(::testing::Values(DType::f32, DType::bf16),
                                            ::testing::Values(LoraLayout::separate, LoraLayout::bordered),
                                            ::testing::Values(Recompute::nothing, Recompute::activations,
                                                              Recompute::gate_up),
                                            ::testing::Bool()));

// What the test above looks for is there to be seen.
TEST(GradPlace, ACopyOfHeadsIsInTheProfile) {
  const Device device = test_device();
  const Tensor heads = Tensor::full({4, 6, 16}, 1.0, DType::f32, device).slice(1, 0, 4);
  const auto copies_of = [&](const std::function<void()>& work) {
    Profile profile(device);
    work();
    const std::vector<KernelRecord> records = profile.stop();
    return std::ranges::count(records, "copy", &KernelRecord::name);
  };
  EXPECT_EQ(copies_of([&] { (void)softmax(heads); }), 1);  // which takes a matrix
  const Tensor weight = Tensor::full({16}, 1.0, DType::f32, device);
  EXPECT_EQ(copies_of([&] { (void)rms_norm(heads, weight, 1e-6); }), 0);
}

TEST(GradPlace, ACopyThatJoinsIsInTheProfile) {
  const Device device = test_device();
  const Parameter p("p", Tensor::full({64, 64}, 1.0, DType::f32, device));
  const std::int64_t halves[] = {32, 32};
  Tape tape;
  const std::vector<Tensor> parts = split(p.value(), 1, halves);
  const Tensor loss = sum(mul(parts[0], parts[1]));
  Profile profile(device);
  tape.backward(loss);
  const std::vector<KernelRecord> records = profile.stop();
  EXPECT_GE(std::ranges::count(records, "copy", &KernelRecord::name), 1);
}

}  // namespace
}  // namespace wick::testing
