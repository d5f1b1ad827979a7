#include "generate/sampling.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "io/json.h"
#include "io_test_util.h"

namespace wick {
namespace {

using test::expect_error;

constexpr float kInf = std::numeric_limits<float>::infinity();

std::vector<std::int32_t> distinct(std::vector<std::int32_t> ids) {
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  return ids;
}

// logits_cases.json: what transformers' logits processors make of random logits, one by one and chained; null: ruled
// out.
TEST(Logits, AsTransformersProcessesThem) {
  const std::string path = std::string(WICK_TEST_DATA) + "/generate/logits_cases.json";
  const Json cases = read_json_file(path);
  ASSERT_GE(cases.size(), 20U);
  for (const Json& c : cases) {
    const Json& o = c.at("options");
    SCOPED_TRACE(o.dump());
    auto logits = get<std::vector<float>>(c, "logits", path);
    if (o.contains("repetition_penalty")) {
      apply_repetition_penalty(logits, distinct(get<std::vector<std::int32_t>>(c, "tokens", path)),
                               o["repetition_penalty"].get<double>());
    }
    float shift = 0;  // apply_temperature moves the largest logit to 0
    if (o.contains("temperature")) {
      shift = *std::max_element(logits.begin(), logits.end()) / o["temperature"].get<float>();
      apply_temperature(logits, o["temperature"].get<double>());
    }
    if (o.contains("top_k")) apply_top_k(logits, o["top_k"].get<std::int64_t>());
    if (o.contains("top_p")) apply_top_p(logits, o["top_p"].get<double>());
    if (o.contains("min_p")) apply_min_p(logits, o["min_p"].get<double>());
    const Json& expected = c.at("expected");
    ASSERT_EQ(expected.size(), logits.size());
    for (std::size_t i = 0; i < logits.size(); ++i) {
      if (expected[i].is_null()) {
        EXPECT_EQ(logits[i], -kInf) << i;
      } else {
        const auto want = expected[i].get<float>();
        EXPECT_NEAR(logits[i] + shift, want, 1e-5F * std::max(1.0F, std::abs(want))) << i;
      }
    }
  }
}

TEST(Logits, TopPKeepsAtLeastOneAndBreaksTiesByTheLowerId) {
  std::vector<float> logits = {1, 2, 2, 2, 2};
  apply_top_p(logits, 0.4);
  EXPECT_EQ(logits, (std::vector<float>{-kInf, 2, 2, -kInf, -kInf}));
  apply_top_p(logits, 1e-300);
  EXPECT_EQ(logits, (std::vector<float>{-kInf, 2, -kInf, -kInf, -kInf}));
  // More than one piece of the partial order, every probability the same.
  std::vector<float> flat(1000, 0.5F);
  apply_top_p(flat, 0.4995);
  EXPECT_EQ(std::count(flat.begin(), flat.end(), 0.5F), 500);
  EXPECT_TRUE(std::all_of(flat.begin(), flat.begin() + 500, [](float x) { return x == 0.5F; }));
}

TEST(Logits, TinyTemperaturesDoNotOverflow) {
  for (const double temperature : {1e-100, 1e-300, std::numeric_limits<double>::denorm_min()}) {
    std::vector<float> logits = {-3e38F, 2, 5, 5, -kInf};
    apply_temperature(logits, temperature);
    EXPECT_EQ(logits, (std::vector<float>{-kInf, -kInf, 0, 0, -kInf}));
  }
}

TEST(Logits, ArgmaxTakesTheLowestIdAndRefusesWhatIsNotANumber) {
  EXPECT_EQ(argmax(std::vector<float>{1, 3, -kInf, 3}), 1);
  EXPECT_EQ(argmax(std::vector<float>{-kInf, -7}), 1);
  expect_error(ErrorCode::diverged, "the logit of token 2 is NaN", [] { argmax(std::vector<float>{1, 2, NAN, 3}); });
  expect_error(ErrorCode::diverged, "is not finite", [] { argmax(std::vector<float>{-kInf, -kInf}); });
  expect_error(ErrorCode::diverged, "is not finite", [] { argmax(std::vector<float>{1, kInf}); });
}

TEST(Sample, WalksTheProbabilitiesInOrderOfIds) {
  const std::vector<float> logits = {std::log(1.0F), -kInf, std::log(2.0F), std::log(5.0F), -kInf};
  EXPECT_EQ(sample(logits, 0.0), 0);
  EXPECT_EQ(sample(logits, 0.12), 0);
  EXPECT_EQ(sample(logits, 0.13), 2);
  EXPECT_EQ(sample(logits, 0.37), 2);
  EXPECT_EQ(sample(logits, 0.38), 3);
  EXPECT_EQ(sample(logits, 1.0), 3);
}

TEST(Sampler, DrawsAsOftenAsTheProbabilitiesSay) {
  const std::vector<float> logits = {0.3F, -1.2F, 2.0F, 1.1F, -4.0F, 0.0F};
  const double temperature = 0.8;
  std::vector<double> p;
  double total = 0;
  for (const float logit : logits) total += p.emplace_back(std::exp(logit / temperature));
  Sampler sampler({.temperature = temperature}, 42, std::ssize(logits), {});
  const int draws = 100000;
  std::vector<double> counts(logits.size());
  for (int i = 0; i < draws; ++i) {
    std::vector<float> copy = logits;
    counts[static_cast<std::size_t>(sampler.next(copy))] += 1;
  }
  double chi_squared = 0;
  for (std::size_t i = 0; i < p.size(); ++i) {
    const double expected = draws * p[i] / total;
    chi_squared += (counts[i] - expected) * (counts[i] - expected) / expected;
  }
  EXPECT_LT(chi_squared, 20.5);  // 5 degrees of freedom: exceeded once in 1000 seeds
}

std::vector<std::int32_t> draw(const SamplingOptions& options, std::uint64_t seed, std::size_t count) {
  Sampler sampler(options, seed, 100, {});
  std::vector<std::int32_t> ids;
  while (ids.size() < count) {
    std::vector<float> logits(100);
    for (std::size_t i = 0; i < logits.size(); ++i) logits[i] = std::sin(static_cast<float>(i * ids.size()));
    ids.push_back(sampler.next(logits));
  }
  return ids;
}

TEST(Sampler, TheSeedDecides) {
  const SamplingOptions options = {.temperature = 1, .top_k = 50, .top_p = 0.9};
  EXPECT_EQ(draw(options, 7, 50), draw(options, 7, 50));
  EXPECT_NE(draw(options, 7, 50), draw(options, 8, 50));
}

TEST(Sampler, GreedyOptionsAgree) {
  const auto greedy = draw({}, 1, 30);
  EXPECT_EQ(draw({.temperature = 2, .top_k = 1}, 1, 30).back(), greedy.back());
  EXPECT_EQ(draw({.temperature = 1e-20}, 1, 30).back(), greedy.back());
  EXPECT_EQ(draw({.temperature = 0, .top_k = 5, .top_p = 0.1, .min_p = 0.5}, 9, 30), greedy);
}

TEST(Sampler, PenalisesPromptAndOutputOnceEach) {
  const std::vector<std::int32_t> prompt = {0, 0, 0};
  Sampler sampler({.repetition_penalty = 2}, 0, 4, prompt);
  const auto next = [&] {
    std::vector<float> logits = {5.5F, 4.0F, 3.0F, -1.0F};
    return sampler.next(logits);
  };
  EXPECT_EQ(next(), 1);  // 2.75, 4, 3, -1
  EXPECT_EQ(next(), 2);  // 2.75, 2, 3, -1
  EXPECT_EQ(next(), 0);  // 2.75, 2, 1.5, -1: token 0 was penalised once, not three times
  EXPECT_EQ(next(), 0);
}

TEST(Sampler, NegativeLogitsAreMultiplied) {
  Sampler sampler({.repetition_penalty = 2}, 0, 2, std::vector<std::int32_t>{0});
  std::vector<float> logits = {-1.0F, -1.5F};
  EXPECT_EQ(sampler.next(logits), 1);
  EXPECT_EQ(logits[0], -2.0F);
}

TEST(SamplingOptions, AreValidatedByName) {
  const auto bad = [](SamplingOptions options, const char* message) {
    expect_error(ErrorCode::invalid_argument, message, [&] { options.validate(); });
  };
  bad({.temperature = -0.1}, "temperature is -0.1, expected");
  bad({.temperature = NAN}, "temperature is nan, expected");
  bad({.top_k = -1}, "top_k is -1, expected");
  bad({.top_p = 0}, "top_p is 0, expected");
  bad({.top_p = 1.5}, "top_p is 1.5, expected");
  bad({.min_p = -1}, "min_p is -1, expected");
  bad({.repetition_penalty = 0}, "repetition_penalty is 0, expected");
  bad({.repetition_penalty = NAN}, "repetition_penalty is nan, expected");
  EXPECT_NO_THROW(SamplingOptions({.temperature = 0, .top_k = 0, .top_p = 1}).validate());
  expect_error(ErrorCode::invalid_argument, "token 4 of the prompt is outside the vocabulary of 4",
               [] { Sampler({.repetition_penalty = 2}, 0, 4, std::vector<std::int32_t>{4}); });
}

}  // namespace
}  // namespace wick
