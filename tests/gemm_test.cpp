// gemm() on the device of WICK_TEST_DEVICE against sums in double: every dtype and layout, with beta and with a bias.
#include "backend/gemm.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "op_matrix.h"
#include "wick/error.h"

namespace wick::testing {
namespace {

Tensor random(const Shape& shape, DType dtype, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<double> normal;
  std::vector<double> values(static_cast<std::size_t>(numel(shape)));
  for (double& value : values) value = normal(generator);
  return Tensor::from(values, shape).to(dtype);
}

// The same numbers on the device, with `gap` columns between rows, or stored transposed.
Tensor there(const Tensor& t, bool transposed, std::int64_t gap, Device device) {
  const Tensor stored = transposed ? t.transpose(0, 1) : t;
  const Tensor wide = Tensor::full({stored.size(0), stored.size(1) + gap}, std::nan(""), t.dtype(), device);
  const Tensor copy = wide.slice(1, 0, stored.size(1));
  copy.copy_from(stored.contiguous().to(device));
  return transposed ? copy.transpose(0, 1) : copy;
}

struct Types {
  DType in, out;
};
class Gemm : public ::testing::TestWithParam<Types> {};
INSTANTIATE_TEST_SUITE_P(Dtypes, Gemm,
                         ::testing::Values(Types{DType::f64, DType::f64}, Types{DType::f32, DType::f32},
                                           Types{DType::bf16, DType::bf16}, Types{DType::bf16, DType::f32},
                                           Types{DType::f16, DType::f16}, Types{DType::f16, DType::f32}),
                         [](const auto& param) {
                           return std::string(to_string(param.param.in)) + "_" +
                                  std::string(to_string(param.param.out));
                         });

TEST_P(Gemm, MatchesSumsInDouble) {
  const auto [in, out] = GetParam();
  const Device device = test_device();
  struct Extents {
    std::int64_t m, n, k;
  };
  for (const auto& [m, n, k] : {Extents{1, 40, 64}, {5, 264, 72}, {130, 8, 40}, {130, 72, 264}, {67, 33, 1}}) {
    for (const bool ta : {false, true}) {
      for (const bool tb : {false, true}) {
        for (const int kind : {0, 1, 2}) {  // alone, with beta, with a bias
          SCOPED_TRACE(::testing::Message()
                       << m << " x " << n << " x " << k << (ta ? " T" : " N") << (tb ? "T" : "N") << ", kind " << kind);
          const Tensor a = random({m, k}, in, 1);
          const Tensor b = random({k, n}, in, 2);
          const Tensor before = random({m, n}, out, 3);
          const Tensor bias = random({n}, out, 4);
          const double beta = kind == 1 ? 0.5 : 0.0;
          const Tensor c = there(kind == 1 ? before : Tensor::full({m, n}, std::nan(""), out), false, 8, device);
          gemm(there(a, ta, 8, device), there(b, tb, 8, device), c, 2.0, beta, kind == 2 ? bias.to(device) : Tensor());

          std::vector<double> sums(static_cast<std::size_t>(m * n));
          const std::vector<double> left = a.to(DType::f64).to_vector<double>();
          const std::vector<double> right = b.to(DType::f64).to_vector<double>();
          const std::vector<double> old = before.to(DType::f64).to_vector<double>();
          const std::vector<double> added = bias.to(DType::f64).to_vector<double>();
          for (std::int64_t i = 0; i < m; ++i) {
            for (std::int64_t j = 0; j < n; ++j) {
              double sum = 0;
              for (std::int64_t p = 0; p < k; ++p) {
                sum += left[static_cast<std::size_t>(i * k + p)] * right[static_cast<std::size_t>(p * n + j)];
              }
              const auto at = static_cast<std::size_t>(i * n + j);
              sums[at] = 2 * sum + beta * old[at] + (kind == 2 ? added[static_cast<std::size_t>(j)] : 0);
            }
          }
          const double tolerance = out == DType::f64    ? 1e-12
                                   : out == DType::f32  ? 1e-5
                                   : out == DType::bf16 ? 5e-3
                                                        : 1e-3;
          EXPECT_LE(relative_error(c.to(Device::cpu()), Tensor::from(sums, {m, n})), tolerance);
        }
      }
    }
  }
}

TEST(GemmBias, IsRefusedWhereItDoesNotFit) {
  const Tensor a = Tensor::zeros({3, 4}, DType::f32);
  const Tensor b = Tensor::zeros({4, 5}, DType::f32);
  const Tensor c = Tensor::zeros({3, 5}, DType::f32);
  EXPECT_THROW(gemm(a, b, c, 1, 0, Tensor::zeros({4}, DType::f32)), Error);
  EXPECT_THROW(gemm(a, b, c, 1, 0, Tensor::zeros({5}, DType::bf16)), Error);
  EXPECT_THROW(gemm(a, b, c, 1, 1, Tensor::zeros({5}, DType::f32)), Error);
}

TEST(GemmBias, IsAllThatIsLeftOfNoProducts) {
  const Tensor bias = random({5}, DType::f32, 1);
  const Tensor c = Tensor::full({1, 5}, std::nan(""), DType::f32, test_device());
  gemm(Tensor::zeros({1, 0}, DType::f32, test_device()), Tensor::zeros({0, 5}, DType::f32, test_device()), c, 1, 0,
       bias.to(test_device()));
  EXPECT_EQ(c.to_vector<float>(), bias.to_vector<float>());
}

}  // namespace
}  // namespace wick::testing
