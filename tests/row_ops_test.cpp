// What the op matrix cannot see of the row ops: accuracy element by element, NaN and infinities, argument errors, the
// same bytes on any number of threads.
#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <limits>

#include "expect_error.h"
#include "op_matrix.h"

namespace wick::testing {
namespace {

using test::expect_refused;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

std::vector<float> grid(double from, double to, int count) {
  std::vector<float> values;
  for (int i = 0; i < count; ++i) values.push_back(static_cast<float>(from + (to - from) * i / (count - 1)));
  return values;
}

Tensor row(const std::vector<float>& values) {
  return Tensor::from(values, {1, static_cast<std::int64_t>(values.size())});
}

Tensor gradient_of(const Tensor& x, const std::function<Tensor(const Tensor&)>& f) {
  Tensor leaf = x.detach();
  leaf.set_slot(std::make_shared<GradSlot>());
  Tape tape;
  const Tensor y = f(leaf);
  tape.backward(y, Tensor::full(y.shape(), 1.0, y.dtype()));
  return leaf.slot()->grad;
}

TEST(RowOps, ExactGeluIsAccurateRelativeToEachValue) {
  const FusedScope fused(true);
  const std::vector<float> x = grid(-12, 12, 100001);
  const std::vector<float> y = gelu(row(x), GeluKind::exact).to_vector<float>();
  const std::vector<float> slope =
      gradient_of(row(x), [](const Tensor& t) { return gelu(t, GeluKind::exact); }).to_vector<float>();
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double z = x[i];
    const double phi = 0.5 * std::erfc(-z / std::sqrt(2.0));
    EXPECT_NEAR(y[i], z * phi, 5e-7 * std::abs(z * phi)) << z;
    const double density = std::exp(-0.5 * z * z) / std::sqrt(2 * std::acos(-1.0));
    // The slope passes through zero near -0.75; there its error is that of its two terms.
    EXPECT_NEAR(slope[i], phi + z * density, 5e-7 * (phi + std::abs(z) * density)) << z;
  }
}

TEST(RowOps, SwigluAndTanhGeluAreAccurateRelativeToEachValue) {
  const FusedScope fused(true);
  const std::vector<float> x = grid(-60, 60, 100001);
  const std::vector<float> y = swiglu(row(x), row(std::vector<float>(x.size(), 1.0F))).to_vector<float>();
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double expected = x[i] / (1 + std::exp(-static_cast<double>(x[i])));
    EXPECT_NEAR(y[i], expected, 1e-6 * std::abs(expected)) << x[i];
  }
  const std::vector<float> near = grid(-3, 9, 10001);
  const std::vector<float> t = gelu(row(near), GeluKind::tanh).to_vector<float>();
  for (std::size_t i = 0; i < near.size(); ++i) {
    const double z = near[i];
    const double u = std::sqrt(2 / std::acos(-1.0)) * (z + 0.044715 * z * z * z);
    const double expected = z / (1 + std::exp(-2 * u));
    EXPECT_NEAR(t[i], expected, 4e-6 * std::abs(expected)) << z;
  }
}

TEST(RowOps, NaNAndInfinitiesComeOutAsThePlainFormulaHasThem) {
  // Long enough for a whole vector and a tail.
  for (const std::size_t at : {std::size_t{3}, std::size_t{36}}) {
    for (const bool fused : {true, false}) {
      const FusedScope scope(fused);
      std::vector<float> values = grid(-2, 2, 37);
      values[at] = kNaN;
      for (const float y : softmax(row(values)).to_vector<float>()) EXPECT_TRUE(std::isnan(y));
      EXPECT_TRUE(std::isnan(swiglu(row(values), row(values)).to_vector<float>()[at]));
      for (const GeluKind kind : {GeluKind::exact, GeluKind::tanh}) {
        EXPECT_TRUE(std::isnan(gelu(row(values), kind).to_vector<float>()[at]));
        const Tensor slope = gradient_of(row(values), [kind](const Tensor& t) { return gelu(t, kind); });
        EXPECT_TRUE(std::isnan(slope.to_vector<float>()[at]));
      }
      values[at] = kInfinity;
      for (const float y : softmax(row(values)).to_vector<float>()) EXPECT_TRUE(std::isnan(y));
      EXPECT_EQ(gelu(row(values), GeluKind::exact).to_vector<float>()[at], kInfinity);
      values[at] = -kInfinity;
      EXPECT_EQ(softmax(row(values)).to_vector<float>()[at], 0.0F);
      const Tensor blank = row(std::vector<float>(37, -kInfinity));
      for (const float y : softmax(blank).to_vector<float>()) EXPECT_TRUE(std::isnan(y));
    }
  }
}

TEST(RowOps, HugeInputsDoNotOverflow) {
  const FusedScope fused(true);
  const Tensor x = row({-3e38F, -1e20F, -200.0F, -90.0F, 90.0F, 200.0F, 1e20F, 3e38F});
  for (const GeluKind kind : {GeluKind::exact, GeluKind::tanh}) {
    const std::vector<float> y = gelu(x, kind).to_vector<float>();
    const std::vector<float> slope =
        gradient_of(x, [kind](const Tensor& t) { return gelu(t, kind); }).to_vector<float>();
    for (std::size_t i = 0; i < 8; ++i) {
      EXPECT_EQ(y[i], i < 4 ? 0.0F : x.data<float>()[i]) << i;
      EXPECT_EQ(slope[i], i < 4 ? 0.0F : 1.0F) << i;
    }
  }
  const Tensor one = row(std::vector<float>(8, 1.0F));
  const std::vector<float> silu = swiglu(x, one).to_vector<float>();
  for (std::size_t i = 0; i < 8; ++i) EXPECT_NEAR(silu[i], i < 4 ? 0.0F : x.data<float>()[i], 1e-30F) << i;
  const std::vector<float> slope = gradient_of(x, [&](const Tensor& t) { return swiglu(t, one); }).to_vector<float>();
  for (std::size_t i = 0; i < 8; ++i) EXPECT_NEAR(slope[i], i < 4 ? 0.0F : 1.0F, 1e-30F) << i;
}

TEST(RowOps, LayerNormKeepsItsDigitsFarFromZero) {
  const FusedScope fused(true);
  std::vector<float> x = grid(0, 1, 1000);
  for (float& v : x) v = 4096.0F + std::round(v * 1024.0F) / 1024.0F;
  const Tensor weight = Tensor::full({1000}, 1.0, DType::f64);
  const Tensor bias = Tensor::zeros({1000}, DType::f64);
  const Tensor exact = layer_norm(row(x).to(DType::f64), weight, bias, 1e-5);
  const Tensor found = layer_norm(row(x), weight.to(DType::f32), bias.to(DType::f32), 1e-5);
  // Half a unit in the last place of the mean, over the standard deviation; E[x²] - E[x]² would leave nothing.
  EXPECT_LE(relative_error(found, exact), 2.5e-4 / 0.289 / 1.73);
}

TEST(RowOps, ArgumentErrorsNameWhatIsWrong) {
  const Tensor x = Tensor::zeros({3, 4}, DType::f32);
  const Tensor heads = Tensor::zeros({3, 2, 4}, DType::f32);
  const Tensor angles = Tensor::zeros({5, 2}, DType::f32);
  const auto ids = [](std::vector<std::int32_t> v) { return Tensor::from(v, {static_cast<std::int64_t>(v.size())}); };
  const auto zeros = [](const Shape& shape, DType dtype = DType::f32) { return Tensor::zeros(shape, dtype); };
  expect_refused("[swiglu] gate has shape [3, 4], up has shape [3, 5]", [&] { swiglu(x, zeros({3, 5})); });
  expect_refused("[swiglu] up is bf16 [3, 4], expected dtype f32", [&] { swiglu(x, zeros({3, 4}, DType::bf16)); });
  expect_refused("[swiglu] border is -1", [&] { swiglu(x, x, -1); });
  expect_refused("[softmax] x has no dimensions", [&] { softmax(zeros({})); });
  expect_refused("[softmax] x must be floating, is i32 [3]", [&] { softmax(zeros({3}, DType::i32)); });
  expect_refused("[layer_norm] bias has 5 elements, the last dimension of x has 4",
                 [&] { layer_norm(x, zeros({4}), zeros({5}), 1e-5); });
  expect_refused("[layer_norm] eps is -1", [&] { layer_norm(x, zeros({4}), {}, -1); });
  expect_refused("[gelu] x must be floating, is undefined", [&] { gelu(Tensor(), GeluKind::exact); });
  expect_refused("[rope] x is f32 [3, 4]", [&] { rope(x, angles, angles, 0); });
  expect_refused("with an even d", [&] { rope(zeros({3, 2, 5}), angles, angles, 0); });
  expect_refused("[rope] cos is f32 [5, 4], expected f32 [positions, 2]", [&] {
    rope(heads, zeros({5, 4}), angles, 0);
  });
  expect_refused("[rope] cos has shape [5, 2], sin has shape [6, 2]", [&] { rope(heads, angles, zeros({6, 2}), 0); });
  expect_refused("[rope] position 5 is outside the table of 5 positions", [&] { rope(heads, angles, angles, 3); });
  expect_refused("[rope] offset is -1", [&] { rope(heads, angles, angles, -1); });
  expect_refused("[rope] positions[1] is 5, expected 0 to 4", [&] { rope(heads, angles, angles, ids({0, 5, 1})); });
  expect_refused("[rope] 2 positions for 3 tokens", [&] { rope(heads, angles, angles, ids({0, 1})); });
  expect_refused("[embedding] ids[1] is -1, expected 0 to 2", [&] { embedding(x, ids({0, -1})); });
  expect_refused("[embedding] table must be a matrix", [&] { embedding(heads, ids({0})); });
}

TEST(RowOps, TheNumberOfThreadsDoesNotChangeAByte) {
  const int before = omp_get_max_threads();
  const std::vector<OpSample> samples = {
      {.name = "layer_norm",
       .inputs = {normal({700, 300}), normal({300}), normal({300})},
       .run = [](std::span<const Tensor> in) { return std::vector{layer_norm(in[0], in[1], in[2], 1e-5)}; }},
      {.name = "softmax",
       .inputs = {normal({700, 300})},
       .run = [](std::span<const Tensor> in) { return std::vector{softmax(in[0])}; }},
      {.name = "embedding",
       .inputs = {normal({300, 300}), indices({700}, 300)},
       .run = [](std::span<const Tensor> in) { return std::vector{embedding(in[0], in[1])}; }},
  };
  const Tensor seed = draw_inputs({.name = "seed", .inputs = {normal({700, 300})}, .run = {}}, DType::f32, 6)[0];
  std::vector<std::vector<float>> results;
  for (const int threads : {1, 2, 3}) {
    omp_set_num_threads(threads);
    std::vector<float> all;
    for (const OpSample& sample : samples) {
      const std::vector<Tensor> inputs = draw_inputs(sample, DType::f32, 5);
      const RunResult found = run_sample(sample, convert_inputs(sample, inputs, DType::f32, Layout::dense), {seed});
      for (const std::vector<Tensor>& tensors : {found.outputs, found.grads}) {
        for (const Tensor& t : tensors) {
          if (!t.defined()) continue;
          const std::vector<float> values = t.to_vector<float>();
          all.insert(all.end(), values.begin(), values.end());
        }
      }
    }
    results.push_back(std::move(all));
  }
  omp_set_num_threads(before);
  for (std::size_t i = 1; i < results.size(); ++i) {
    ASSERT_EQ(results[i].size(), results[0].size());
    EXPECT_EQ(std::memcmp(results[i].data(), results[0].data(), results[0].size() * sizeof(float)), 0);
  }
}

}  // namespace
}  // namespace wick::testing
