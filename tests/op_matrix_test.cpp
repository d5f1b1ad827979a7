// Every op x sample x dtype x layout x {fused, composite} against the f64 composite; every gradient against finite
// differences in f64; every fused gradient against the f64 composite's.
#include "op_matrix.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>

namespace wick::testing {
namespace {

struct Case {
  std::string op;
  OpSample sample;
};

void PrintTo(const Case& c, std::ostream* out) { *out << c.op << " " << c.sample.name; }

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const OpSamples& op : all_samples()) {
    EXPECT_FALSE(op.samples.empty()) << op.op;
    for (const OpSample& sample : op.samples) {
      if (!sample.bench) all.push_back({op.op, sample});
    }
  }
  return all;
}

std::vector<Tensor> reference_seeds(const std::vector<Tensor>& outputs) {
  std::mt19937_64 generator(99);
  std::normal_distribution<double> gauss;
  std::vector<Tensor> seeds;
  for (const Tensor& y : outputs) {
    const Tensor seed = Tensor::empty(y.shape(), DType::f64);
    for (std::int64_t i = 0; i < seed.numel(); ++i) seed.data<double>()[i] = gauss(generator);
    seeds.push_back(seed.to(DType::bf16).to(DType::f64));  // exact in every dtype
  }
  return seeds;
}

class OpMatrix : public ::testing::TestWithParam<Case> {};

struct Tolerance {
  double forward;
  double gradient;
};
Tolerance tolerance(DType dtype) {
  if (dtype == DType::f64) return {1e-12, 1e-12};
  if (dtype == DType::f32) return {1e-5, 1e-4};
  return {4e-2, 4e-2};  // bf16; f16 is held to the same
}

TEST_P(OpMatrix, MatchesTheF64CompositeInEveryDTypeAndLayout) {
  const OpSample& sample = GetParam().sample;
  // For racecheck: composites, and f64, are made of primitives, which have samples of their own.
  const bool only_fused = std::getenv("WICK_TEST_ONLY_FUSED") != nullptr;
  for (const DType dtype : sample.dtypes) {
    if (only_fused && dtype == DType::f64 && GetParam().op != "primitive") continue;
    const std::vector<Tensor> drawn = draw_inputs(sample, dtype, 7);
    RunResult expected;
    {
      const FusedScope composite(false);
      const std::vector<Tensor> outputs = sample.run(convert_inputs(sample, drawn, DType::f64, Layout::dense));
      expected = run_sample(sample, convert_inputs(sample, drawn, DType::f64, Layout::dense),
                            sample.gradients ? reference_seeds(outputs) : std::vector<Tensor>{});
    }
    const std::vector<Tensor> seeds = sample.gradients ? reference_seeds(expected.outputs) : std::vector<Tensor>{};
    for (const Layout layout : {Layout::dense, Layout::strided}) {
      for (const bool fused : {true, false}) {
        if (only_fused && !fused) continue;
        const FusedScope scope(fused);
        SCOPED_TRACE(std::string(to_string(dtype)) + (layout == Layout::dense ? " dense" : " strided") +
                     (fused ? " fused" : " composite"));
        const RunResult found = run_sample(sample, convert_inputs(sample, drawn, dtype, layout, test_device()), seeds);
        ASSERT_EQ(found.outputs.size(), expected.outputs.size());
        for (std::size_t i = 0; i < found.outputs.size(); ++i) {
          EXPECT_LE(relative_error(found.outputs[i], expected.outputs[i]), tolerance(dtype).forward) << "output " << i;
        }
        if (!sample.gradients) continue;
        for (std::size_t i = 0; i < found.grads.size(); ++i) {
          ASSERT_EQ(found.grads[i].defined(), expected.grads[i].defined()) << "gradient " << i;
          if (!found.grads[i].defined()) continue;
          EXPECT_LE(relative_error(found.grads[i], expected.grads[i]), tolerance(dtype).gradient) << "gradient " << i;
        }
      }
    }
  }
}

TEST_P(OpMatrix, GradientMatchesFiniteDifferencesInF64) {
  const OpSample& sample = GetParam().sample;
  if (!sample.gradients) return;
  const FusedScope composite(false);
  const std::vector<Tensor> inputs =
      convert_inputs(sample, draw_inputs(sample, DType::f64, 11), DType::f64, Layout::dense);
  const std::vector<Tensor> seeds = reference_seeds(sample.run(inputs));
  const std::vector<Tensor> grads = run_sample(sample, inputs, seeds).grads;
  const auto loss = [&](const std::vector<Tensor>& at) {
    const std::vector<Tensor> outputs = sample.run(at);
    double total = 0;
    for (std::size_t i = 0; i < outputs.size(); ++i) {
      const std::vector<double> y = outputs[i].to_vector<double>();
      for (std::size_t j = 0; j < y.size(); ++j) total += y[j] * seeds[i].data<double>()[j];
    }
    return total;
  };
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    if (!grads[i].defined()) continue;
    const Tensor found = grads[i].contiguous();
    const std::int64_t step =
        std::max<std::int64_t>(1, found.numel() / 97);  // all of the small ones, spread over large
    double size = 1e-30;
    for (std::int64_t j = 0; j < found.numel(); ++j) size = std::max(size, std::abs(found.data<double>()[j]));
    for (std::int64_t j = 0; j < found.numel(); j += step) {
      const double h = 1e-5 * std::max(1.0, std::abs(inputs[i].data<double>()[j]));
      const auto shifted = [&](double by) {
        std::vector<Tensor> at = inputs;
        at[i] = inputs[i].clone();
        at[i].data<double>()[j] += by;
        return loss(at);
      };
      const double slope = (8 * (shifted(h) - shifted(-h)) - (shifted(2 * h) - shifted(-2 * h))) / (12 * h);
      EXPECT_LE(std::abs(slope - found.data<double>()[j]) / size, 1e-6) << "input " << i << " element " << j;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Ops, OpMatrix, ::testing::ValuesIn(cases()), [](const auto& info) {
  std::string name = info.param.op + "_" + info.param.sample.name + "_" + std::to_string(info.index);
  for (char& c : name) {
    if (!std::isalnum(static_cast<unsigned char>(c))) c = '_';
  }
  return name;
});

}  // namespace
}  // namespace wick::testing
