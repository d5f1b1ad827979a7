#include "backend/cpu/gemv.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "backend/gemm.h"

namespace wick {
namespace {

Tensor random(const Shape& shape, DType dtype, unsigned seed) {
  std::mt19937 generator(seed);
  std::uniform_real_distribution<float> uniform(-1, 1);
  std::vector<float> values(static_cast<std::size_t>(numel(shape)));
  for (float& value : values) value = uniform(generator);
  return Tensor::from(values, shape).to(dtype);
}

void expect_near(const Tensor& got, const Tensor& expected, double tolerance) {
  ASSERT_EQ(got.shape(), expected.shape());
  const auto a = got.to(DType::f64).to_vector<double>();
  const auto b = expected.to(DType::f64).to_vector<double>();
  for (std::size_t i = 0; i < a.size(); ++i) ASSERT_NEAR(a[i], b[i], tolerance * std::max(1.0, std::abs(b[i]))) << i;
}

class Gemv : public testing::TestWithParam<DType> {};
INSTANTIATE_TEST_SUITE_P(Results, Gemv, testing::Values(DType::f32, DType::bf16),
                         [](const auto& param) { return std::string(to_string(param.param)); });

TEST_P(Gemv, IsTheGemmOfTheLibrary) {
  // One rounding of the result apart; the sums differ in order only.
  const double tolerance = GetParam() == DType::bf16 ? 1.0 / 128 : 2e-5;
  for (const std::int64_t k : {1, 2, 7, 16, 31, 32, 33, 100, 896}) {
    for (const std::int64_t n : {1, 2, 3, 4, 5, 64, 301}) {
      const Tensor weight = random({n, k + 3}, DType::bf16, 1).slice(1, 1, k);
      const Tensor x = random({2, k + 2}, DType::bf16, 2).slice(1, 2, k);
      const Tensor start = random({2, n + 4}, GetParam(), 3).slice(1, 0, n);
      for (const auto& [alpha, beta] : {std::pair(1.0F, 0.0F), std::pair(1.0F, 1.0F), std::pair(-0.5F, 2.0F)}) {
        SCOPED_TRACE(testing::Message() << k << " x " << n << ", alpha " << alpha << ", beta " << beta);
        const Tensor expected = Tensor::empty(start.shape(), GetParam());
        expected.copy_from(start);
        gemm(x, weight.transpose(0, 1), expected, alpha, beta);  // two rows: not by gemv_bf16()
        const Tensor got = Tensor::empty({2, n + 4}, GetParam()).slice(1, 0, n);
        got.copy_from(start);
        gemv_bf16(x.slice(0, 0, 1), weight, got.slice(0, 0, 1), alpha, beta);
        expect_near(got.slice(0, 0, 1), expected.slice(0, 0, 1), tolerance);
        expect_near(got.slice(0, 1, 1), start.slice(0, 1, 1), 0);
      }
    }
  }
}

TEST_P(Gemv, IgnoresWhatCHeldWhenBetaIsZero) {
  const Tensor c = Tensor::full({1, 9}, NAN, GetParam());
  gemv_bf16(random({1, 40}, DType::bf16, 1), random({9, 40}, DType::bf16, 2), c, 1, 0);
  for (const double value : c.to(DType::f64).to_vector<double>()) EXPECT_TRUE(std::isfinite(value));
}

TEST_P(Gemv, GivesEachRowTheSameBitsWhereverItStands) {
  const Tensor weight = random({67, 300}, DType::bf16, 1);
  const Tensor x = random({1, 300}, DType::bf16, 2);
  const Tensor whole = Tensor::empty({1, 67}, GetParam());
  gemv_bf16(x, weight, whole, 1, 0);
  for (std::int64_t row = 0; row < 67; ++row) {
    const Tensor one = Tensor::empty({1, 1}, GetParam());
    gemv_bf16(x, weight.slice(0, row, 1), one, 1, 0);
    ASSERT_EQ(one.item(), whole.slice(1, row, 1).item()) << row;
  }
}

}  // namespace
}  // namespace wick
