// DeviceSampler against Sampler, which sampling_test holds to transformers: on the CPU, or the device of
// WICK_TEST_DEVICE.
#include "generate/device_sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "generate/sampling.h"
#include "io_test_util.h"
#include "op_matrix.h"

namespace wick {
namespace {

using test::expect_error;
using testing::test_device;

constexpr float kInf = std::numeric_limits<float>::infinity();

std::int32_t next(DeviceSampler& sampler, const std::vector<float>& logits) {
  const Tensor there = Tensor::from(logits, {static_cast<std::int64_t>(logits.size())}).to(test_device());
  const Tensor id = Tensor::full({1}, -7, DType::i32, test_device());
  sampler.next(there, id);
  EXPECT_EQ(std::memcmp(there.to_vector<float>().data(), logits.data(), logits.size() * sizeof(float)), 0);
  return id.to_vector<std::int32_t>()[0];
}

struct Case {
  std::string name;
  std::int64_t vocab;
  SamplingOptions options;
  float step = 0;  // logits are multiples of it: many are equal
  float spread = 3;
};

class DeviceSampling : public ::testing::TestWithParam<Case> {};

TEST_P(DeviceSampling, ChoosesTheTokensOfSampler) {
  const Case& c = GetParam();
  const std::vector<std::int32_t> prompt = {0, static_cast<std::int32_t>(c.vocab - 1), 0};
  for (const std::uint64_t seed : {1, 2}) {
    Sampler expected(c.options, seed, c.vocab, prompt);
    DeviceSampler found(c.options, seed, c.vocab, prompt, test_device());
    std::mt19937 generator(static_cast<unsigned>(seed));
    std::normal_distribution<float> gauss(0, c.spread);
    std::vector<float> logits(static_cast<std::size_t>(c.vocab));
    for (int token = 0; token < 12; ++token) {
      for (float& x : logits) {
        x = gauss(generator);
        if (c.step > 0) x = std::round(x / c.step) * c.step;
      }
      if (c.vocab > 4 && token % 3 == 1) logits[2] = -kInf;
      std::vector<float> copy = logits;
      ASSERT_EQ(next(found, logits), expected.next(copy)) << "token " << token << " of seed " << seed;
    }
  }
}

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const std::int64_t vocab : {1, 2, 5, 31, 1000, 32000, 151936}) {
    const auto add = [&](const std::string& name, const SamplingOptions& options, float step = 0, float spread = 3) {
      all.push_back({"of_" + std::to_string(vocab) + "_" + name, vocab, options, step, spread});
    };
    add("greedy", {});
    add("greedy_with_ties", {}, 1);
    add("greedy_with_penalty", {.repetition_penalty = 1.3});
    add("plain", {.temperature = 1});
    add("flat", {.temperature = 1}, 0, 0.01F);
    add("cold", {.temperature = 0.3});
    add("very_cold", {.temperature = 1e-300});
    add("hot", {.temperature = 5, .repetition_penalty = 1.2});
    add("top_k", {.temperature = 0.8, .top_k = 40});
    add("top_k_1", {.temperature = 2, .top_k = 1});
    add("top_k_with_ties", {.temperature = 1, .top_k = 7}, 0.5F);
    add("top_p", {.temperature = 1, .top_p = 0.9});
    add("top_p_of_a_flat_row", {.temperature = 1, .top_p = 0.5}, 0, 0.01F);
    add("top_p_with_ties", {.temperature = 1, .top_p = 0.6}, 1);
    add("top_p_of_equals", {.temperature = 1.5, .top_p = 0.4995}, 100, 1);
    add("tiny_top_p", {.temperature = 1, .top_p = 1e-300}, 1);
    add("min_p", {.temperature = 1.2, .min_p = 0.05});
    add("min_p_1", {.temperature = 1, .min_p = 1}, 2);
    add("everything", {.temperature = 0.9, .top_k = 100, .top_p = 0.8, .min_p = 0.02, .repetition_penalty = 1.1});
    add("everything_with_ties",
        {.temperature = 1.1, .top_k = 20, .top_p = 0.7, .min_p = 0.01, .repetition_penalty = 0.8}, 0.25F);
  }
  return all;
}

INSTANTIATE_TEST_SUITE_P(Options, DeviceSampling, ::testing::ValuesIn(cases()),
                         [](const auto& info) { return info.param.name; });

TEST(DeviceSampler, MinusZeroIsZero) {
  DeviceSampler sampler({}, 0, 3, {}, test_device());
  EXPECT_EQ(next(sampler, {-1.0F, -0.0F, 0.0F}), 1);
  EXPECT_EQ(next(sampler, {-1.0F, 0.0F, -0.0F}), 1);
}

TEST(DeviceSampler, PenalisesPromptAndOutputOnceEach) {
  DeviceSampler sampler({.repetition_penalty = 2}, 0, 4, std::vector<std::int32_t>{0, 0, 0}, test_device());
  for (const std::int32_t id : {1, 2, 0, 0}) EXPECT_EQ(next(sampler, {5.5F, 4.0F, 3.0F, -1.0F}), id);
}

TEST(DeviceSampler, SaysThatTheModelHasDiverged) {
  for (const double temperature : {0.0, 1.0}) {
    DeviceSampler sampler({.temperature = temperature, .top_p = 0.9}, 0, 3, {}, test_device());
    EXPECT_EQ(next(sampler, {1, std::nanf(""), 3}), -1);
    EXPECT_EQ(next(sampler, {1, kInf, 3}), -1);
    EXPECT_EQ(next(sampler, {-kInf, -kInf, -kInf}), -1);
    EXPECT_EQ(next(sampler, {-kInf, -7, -kInf}), 1);
  }
}

TEST(DeviceSampler, RefusesWhatDoesNotFit) {
  expect_error(ErrorCode::invalid_argument, "token 4 of the prompt is outside the vocabulary of 4",
               [] { DeviceSampler({.repetition_penalty = 2}, 0, 4, std::vector<std::int32_t>{4}, test_device()); });
  expect_error(ErrorCode::invalid_argument, "top_p is 0", [] { DeviceSampler({.top_p = 0}, 0, 4, {}, test_device()); });
  DeviceSampler sampler({}, 0, 4, {}, test_device());
  const Tensor id = Tensor::empty({1}, DType::i32, test_device());
  const Tensor logits = Tensor::zeros({4}, DType::f32, test_device());
  expect_error(ErrorCode::invalid_argument, "logits are f32 [3]", [&] { sampler.next(logits.slice(0, 0, 3), id); });
  expect_error(ErrorCode::invalid_argument, "logits are bf16 [4]", [&] { sampler.next(logits.to(DType::bf16), id); });
  expect_error(ErrorCode::invalid_argument, "the token's place is f32 [4]", [&] { sampler.next(logits, logits); });
}

}  // namespace
}  // namespace wick
