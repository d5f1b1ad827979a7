// Expected numbers: torch.optim.AdamW in float64, 20 steps.
#include <gtest/gtest.h>

#include <cmath>

#include "op_matrix.h"
#include "wick/error.h"

namespace wick::testing {
namespace {

const std::vector<double> kParameters = {
    -1.961762393786, -0.14734774082, 1.62698589253,   -0.550931829931, 1.2008073562,   -0.952143414496, 0.822542370192,
    -1.311527093258, 0.527518205678, -1.627170770174, 0.165476972023,  1.809397098569, -0.229257422949, 1.373875845123,
    -0.635542638102, 1.16583339202,  -0.961048895851, 0.826802741255,  -1.344438963747};
const std::vector<double> kExpAvg = {0.194479960804,  0.029437584982, -0.275477691156, 0.062836409765,  -0.13155628673,
                                     -0.418027116401, 0.127522046014, 0.149420251534,  0.199871121277,  0.530026842713,
                                     -0.279169582206, 0.338077405963, -0.018257230106, -0.071364804498, -0.090598489809,
                                     0.192323340589,  0.096546485911, -0.049538622838, -0.066644467462};
const std::vector<double> kExpAvgSq = {0.825538220325, 0.79604955275,  0.867179999369, 0.866263133347, 0.878886447066,
                                       0.860374580717, 0.864471070523, 0.841670617673, 0.8805026158,   1.016462828925,
                                       0.868491629427, 0.749910937457, 0.780998481756, 1.338358320944, 0.89734235863,
                                       0.878866085131, 0.968234345077, 0.754427288035, 0.795388803455};

constexpr std::int64_t kLength = 19;

// Numbers that are exact in every type, the same as the oracle's.
Tensor gradient_of(std::int64_t step) {
  const Tensor t = Tensor::empty({kLength}, DType::f32);
  for (std::int64_t i = 0; i < kLength; ++i) {
    t.data<float>()[i] = static_cast<float>((step * 37 + i * 101 + step * i * 17) % 64 - 32) / 16.0F;
  }
  return t;
}

struct State {
  Tensor parameters = Tensor::empty({kLength}, DType::f32);
  Tensor exp_avg = Tensor::zeros({kLength}, DType::f32);
  Tensor exp_avg_sq = Tensor::zeros({kLength}, DType::f32);

  State() {
    for (std::int64_t i = 0; i < kLength; ++i) {
      parameters.data<float>()[i] = static_cast<float>((i * 29) % 64 - 32) / 16.0F;
    }
  }
};

constexpr AdamWOptions kOptions{.learning_rate = 0.01, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1};

void expect_near(const Tensor& found, const std::vector<double>& expected, const char* what) {
  for (std::size_t i = 0; i < expected.size(); ++i) {
    EXPECT_NEAR(static_cast<double>(found.data<float>()[i]), expected[i], 1e-6 * std::max(1.0, std::abs(expected[i])))
        << what << " " << i;
  }
}

class AdamW : public ::testing::TestWithParam<bool> {};

TEST_P(AdamW, TwentyStepsMatchTorch) {
  const FusedScope fused(GetParam());
  const State state;
  for (std::int64_t step = 1; step <= 20; ++step) {
    adamw_step(state.parameters, gradient_of(step), state.exp_avg, state.exp_avg_sq, kOptions, step);
  }
  expect_near(state.parameters, kParameters, "parameter");
  expect_near(state.exp_avg, kExpAvg, "exp_avg");
  expect_near(state.exp_avg_sq, kExpAvgSq, "exp_avg_sq");
}

TEST_P(AdamW, GradScaleIsAScaledGradient) {
  const FusedScope fused(GetParam());
  const State scaled;
  const State plain;
  const Tensor half = gradient_of(1);
  for (std::int64_t i = 0; i < kLength; ++i) half.data<float>()[i] *= 0.5F;
  adamw_step(scaled.parameters, gradient_of(1), scaled.exp_avg, scaled.exp_avg_sq, kOptions, 1, 0.5);
  adamw_step(plain.parameters, half, plain.exp_avg, plain.exp_avg_sq, kOptions, 1);
  EXPECT_EQ(scaled.parameters.to_vector<float>(), plain.parameters.to_vector<float>());
}

TEST_P(AdamW, NormOfAGradient) {
  const FusedScope fused(GetParam());
  EXPECT_NEAR(gradient_norm(gradient_of(20)), 4.945405064299587, 1e-14);
  // Squares that float32 cannot hold.
  EXPECT_NEAR(gradient_norm(Tensor::full({4}, 1e30, DType::f32)) / 2e30, 1.0, 1e-7);
  EXPECT_TRUE(std::isnan(gradient_norm(Tensor::full({3}, std::nan(""), DType::f32))));
}

// What a recorded step does with numbers that lie on the device is what the host does with its own.
TEST_P(AdamW, ClippedStepIsNormAndStep) {
  const FusedScope fused(GetParam());
  for (const double max_grad_norm : {0.0, 1.0, 1000.0}) {
    const State one;
    const State two;
    const Tensor norm = Tensor::zeros({1}, DType::f64);
    for (std::int64_t step = 1; step <= 5; ++step) {
      AdamWOptions options = kOptions;
      options.learning_rate = 0.01 / static_cast<double>(step);
      const auto exponent = static_cast<double>(step);
      const std::vector<double> schedule = {options.learning_rate, 1 - std::pow(options.beta1, exponent),
                                            1 - std::pow(options.beta2, exponent)};
      const Tensor g = gradient_of(step);
      clipped_adamw_step(one.parameters, g, one.exp_avg, one.exp_avg_sq, kOptions, max_grad_norm,
                         Tensor::from(schedule, {3}), norm);
      const double found = gradient_norm(g);
      EXPECT_EQ(norm.item(), found);
      const double clip = max_grad_norm > 0 ? std::min(1.0, max_grad_norm / (found + 1e-6)) : 1.0;
      adamw_step(two.parameters, g, two.exp_avg, two.exp_avg_sq, options, step, clip);
    }
    EXPECT_EQ(one.parameters.to_vector<float>(), two.parameters.to_vector<float>());
    EXPECT_EQ(one.exp_avg.to_vector<float>(), two.exp_avg.to_vector<float>());
    EXPECT_EQ(one.exp_avg_sq.to_vector<float>(), two.exp_avg_sq.to_vector<float>());
  }
}

TEST_P(AdamW, ANormThatIsNotFiniteChangesNothing) {
  const FusedScope fused(GetParam());
  const Tensor schedule = Tensor::from(std::vector<double>{0.01, 0.1, 0.05}, {3});
  for (const double bad : {std::nan(""), HUGE_VAL}) {
    const State s;
    const State before;
    const Tensor g = gradient_of(1);
    g.data<float>()[7] = static_cast<float>(bad);
    const Tensor norm = Tensor::zeros({1}, DType::f64);
    clipped_adamw_step(s.parameters, g, s.exp_avg, s.exp_avg_sq, kOptions, 1.0, schedule, norm);
    EXPECT_FALSE(std::isfinite(norm.item()));
    EXPECT_EQ(s.parameters.to_vector<float>(), before.parameters.to_vector<float>());
    EXPECT_EQ(s.exp_avg.to_vector<float>(), before.exp_avg.to_vector<float>());
    EXPECT_EQ(s.exp_avg_sq.to_vector<float>(), before.exp_avg_sq.to_vector<float>());
  }
}

TEST_P(AdamW, RefusesWhatMakesNoSense) {
  const FusedScope fused(GetParam());
  const State s;
  const Tensor g = gradient_of(1);
  EXPECT_THROW(adamw_step(s.parameters, g, s.exp_avg, s.exp_avg_sq, kOptions, 0), Error);
  EXPECT_THROW(adamw_step(s.parameters, g.slice(0, 0, 3), s.exp_avg, s.exp_avg_sq, kOptions, 1), Error);
  EXPECT_THROW(adamw_step(s.parameters, g.to(DType::bf16), s.exp_avg, s.exp_avg_sq, kOptions, 1), Error);
  EXPECT_THROW(adamw_step(s.parameters, g, s.exp_avg, s.exp_avg_sq, {.beta1 = 1}, 1), Error);
  EXPECT_THROW(adamw_step(s.parameters, g, s.exp_avg, s.exp_avg_sq, {.learning_rate = -1}, 1), Error);
  EXPECT_THROW(gradient_norm(Tensor()), Error);
  const auto clipped = [&](const Tensor& schedule, const Tensor& norm, double max_grad_norm) {
    clipped_adamw_step(s.parameters, g, s.exp_avg, s.exp_avg_sq, kOptions, max_grad_norm, schedule, norm);
  };
  const Tensor three = Tensor::full({3}, 0.5, DType::f64);
  const Tensor one = Tensor::zeros({1}, DType::f64);
  EXPECT_THROW(clipped(one, one, 1.0), Error);
  EXPECT_THROW(clipped(three.to(DType::f32), one, 1.0), Error);
  EXPECT_THROW(clipped(three, three, 1.0), Error);
  EXPECT_THROW(clipped(three, one, -1.0), Error);
}

INSTANTIATE_TEST_SUITE_P(Kernels, AdamW, ::testing::Bool(),
                         [](const auto& info) { return info.param ? "fused" : "composite"; });

}  // namespace
}  // namespace wick::testing
