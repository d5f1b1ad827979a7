#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <random>
#include <span>
#include <tuple>

#include "backend/backend.h"
#include "backend/cuda/gemv.h"
#include "backend/cuda/runtime.h"

namespace wick {
namespace {

Tensor random(const Shape& shape, DType dtype, unsigned seed) {
  std::mt19937 generator(seed);
  std::uniform_real_distribution<float> uniform(-1, 1);
  std::vector<float> values(static_cast<std::size_t>(numel(shape)));
  for (float& value : values) value = uniform(generator);
  return Tensor::from(values, shape).to(dtype);
}

struct Case {
  DType in, out;
};

class CudaGemv : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    device_.type = DeviceType::cuda;
    if (const std::string missing = backend(device_).missing(device_); !missing.empty()) GTEST_SKIP() << missing;
  }
  Device device_;
};
INSTANTIATE_TEST_SUITE_P(Dtypes, CudaGemv,
                         testing::Values(Case{DType::bf16, DType::bf16}, Case{DType::bf16, DType::f32},
                                         Case{DType::f16, DType::f16}, Case{DType::f16, DType::f32}),
                         [](const auto& param) {
                           return std::string(to_string(param.param.in)) + "_" +
                                  std::string(to_string(param.param.out));
                         });

TEST_P(CudaGemv, MatchesSumsInDouble) {
  const auto [in, out] = GetParam();
  for (const std::int64_t k : {8, 64, 72, 896, 912, 2064}) {
    for (const std::int64_t n : {2, 8, 38, 1154}) {
      for (const std::int64_t m : {1, 3, 8}) {
        for (const int options : {0, 1, 2, 3, 7, 15, 16, 20, 23, 31}) {
          const bool more = (options & 1) != 0;  // bias, residual, alpha and beta
          const bool swiglu = (options & 2) != 0;
          const bool frozen = (options & 4) != 0;
          const bool in_place = (options & 8) != 0;  // the residual is what y holds
          const bool normalised = (options & 16) != 0;
          SCOPED_TRACE(testing::Message() << m << " x " << k << " x " << n << ", options " << options);
          const std::int64_t width = swiglu ? n / 2 : n;
          const double alpha = more ? 0.5 : 1;
          const double beta = in_place ? 1 : 0;
          const Tensor x = random({m, k}, in, 1);
          const Tensor weight = random({n, k}, in, 2);
          const Tensor bias = random({n}, in, 3);
          const Tensor norm = random({k}, in, 6);
          const Tensor residual = random({m, width}, out, 4);
          const Tensor before = in_place ? random({m, width}, out, 5) : Tensor::full({m, width}, std::nan(""), out);

          // Rows with something between them, which must stay.
          const Tensor x_rows = Tensor::full({m, k + 16}, std::nan(""), in, device_);
          const Tensor weight_rows = Tensor::full({n, k + 24}, std::nan(""), in, device_);
          const Tensor y_rows = Tensor::full({m, width + 3}, 77, out, device_);
          x_rows.slice(1, 0, k).copy_from(x.to(device_));
          weight_rows.slice(1, 8, k).copy_from(weight.to(device_));
          y_rows.slice(1, 1, width).copy_from(before.to(device_));
          cuda::GemvOptions o;
          if (more) {
            o.bias = bias.to(device_);
            o.residual = residual.to(device_);
          }
          if (normalised) {
            o.norm = norm.to(device_);
            o.eps = 1e-3F;
          }
          o.swiglu = swiglu;
          o.frozen = frozen;
          ASSERT_TRUE(cuda::gemv(x_rows.slice(1, 0, k), weight_rows.slice(1, 8, k), y_rows.slice(1, 1, width),
                                 static_cast<float>(alpha), static_cast<float>(beta), o));

          const auto found = y_rows.to(DType::f64).to_vector<double>();
          auto xs = x.to(DType::f64).to_vector<double>();
          if (normalised) {
            const auto us = norm.to(DType::f64).to_vector<double>();
            for (std::int64_t i = 0; i < m; ++i) {
              const std::span row(xs.data() + i * k, static_cast<std::size_t>(k));
              double squares = 0;
              for (const double v : row) squares += v * v;
              const double scale = 1 / std::sqrt(squares / static_cast<double>(k) + 1e-3);
              for (std::size_t c = 0; c < row.size(); ++c) row[c] *= scale * us[c];
            }
            // What is normalised is rounded to the dtype of x before the product.
            xs = Tensor::from(xs, x.shape()).to(in).to(DType::f64).to_vector<double>();
          }
          const auto ws = weight.to(DType::f64).to_vector<double>();
          const auto bs = bias.to(DType::f64).to_vector<double>();
          const auto rs = residual.to(DType::f64).to_vector<double>();
          const auto ys = before.to(DType::f64).to_vector<double>();
          // A sum of float32 that rounds the other way than the double's is one step of the dtype of x away.
          const double rounding = out == DType::f32 && !normalised ? 1e-5 : in == DType::bf16 ? 1.0 / 256 : 1.0 / 2048;
          const double size = std::sqrt(static_cast<double>(k));
          for (std::int64_t i = 0; i < m; ++i) {
            const auto at = [&](std::int64_t column) {
              return found[static_cast<std::size_t>(i * (width + 3) + column)];
            };
            const auto sum = [&](std::int64_t row) {
              double total = 0;
              for (std::int64_t c = 0; c < k; ++c) {
                total += xs[static_cast<std::size_t>(i * k + c)] * ws[static_cast<std::size_t>(row * k + c)];
              }
              return alpha * total + (more ? bs[static_cast<std::size_t>(row)] : 0);
            };
            EXPECT_EQ(at(0), 77);
            EXPECT_EQ(at(width + 1), 77);
            EXPECT_EQ(at(width + 2), 77);
            for (std::int64_t j = 0; j < width; ++j) {
              double expected = sum(j);
              if (swiglu) expected = expected / (1 + std::exp(-expected)) * sum(width + j);
              const auto index = static_cast<std::size_t>(i * width + j);
              if (more) expected += rs[index];
              if (in_place) expected += ys[index];
              const double scale = std::max(std::abs(expected), swiglu ? size * size : size);
              ASSERT_NEAR(at(j + 1), expected, rounding * scale) << i << ", " << j;
            }
          }
        }
      }
    }
  }
}

// The order of sums is that of the parts of k, and a norm's that of the threads: not of the blocks, of what is under
// way at once or of the rows of x.
TEST_P(CudaGemv, AddsUpAlikeInEveryPlanOfAsManyParts) {
  const auto [in, out] = GetParam();
  const int multiprocessors = cuda::info(0).multiprocessors;
  const std::vector<std::tuple<std::int64_t, std::int64_t, bool>> shapes = {
      {38, 72, false}, {38, 912, true}, {1154, 896, false}, {2050, 2064, true}};
  for (const auto& [n, k, swiglu] : shapes) {
    for (const bool normalised : {false, true}) {
      const std::int64_t width = swiglu ? n / 2 : n;
      const Tensor x = random({8, k}, in, 1).to(device_);
      const Tensor weight = random({n, k}, in, 2).to(device_);
      cuda::GemvOptions o;
      if (normalised) o.norm = random({k}, in, 3).to(device_);
      o.eps = 1e-3F;
      o.swiglu = swiglu;
      const auto run = [&](const cuda::GemvPlan* plan, std::int64_t m) {
        const Tensor y = Tensor::full({m, width}, std::nan(""), out, device_);
        o.plan = plan;
        EXPECT_TRUE(cuda::gemv(x.slice(0, 0, m), weight, y, 1, 0, o));
        return y.to(DType::f64).to_vector<double>();
      };
      const std::vector<double> chosen = run(nullptr, 8);
      double largest = 0;
      for (const double value : chosen) largest = std::max(largest, std::abs(value));
      std::map<std::pair<int, int>, std::vector<double>> alike;
      for (const cuda::GemvPlan& plan : cuda::gemv_plans({width, k, swiglu}, multiprocessors)) {
        SCOPED_TRACE(testing::Message() << n << " x " << k << (swiglu ? ", swiglu" : "") << (normalised ? ", norm" : "")
                                        << ": " << plan.warps << " warps, " << plan.parts << " parts, " << plan.loads
                                        << " loads, " << plan.ahead << " ahead, " << plan.resident << " blocks");
        const std::vector<double> found = run(&plan, 8);
        const std::vector<double> first = run(&plan, 1);
        ASSERT_TRUE(std::ranges::equal(first, std::span(found).first(first.size())));
        const std::pair key(plan.parts, normalised ? plan.warps : 0);
        ASSERT_EQ(found, alike.try_emplace(key, found).first->second);
        for (std::size_t i = 0; i < found.size(); ++i) ASSERT_NEAR(found[i], chosen[i], largest / 100);
      }
    }
  }
}

// Each block has several turns on 132 multiprocessors: the warps that share a unit add up beside the next one. Small
// enough for tools that watch shared memory.
TEST_P(CudaGemv, AddsUpTurnByTurn) {
  const auto [in, out] = GetParam();
  const std::int64_t m = 3;
  const std::int64_t k = 328;
  const std::int64_t n = 4096;
  const Tensor x = random({m, k}, in, 1);
  const Tensor weight = random({n, k}, in, 2);
  const auto xs = x.to(DType::f64).to_vector<double>();
  const auto ws = weight.to(DType::f64).to_vector<double>();
  for (const cuda::GemvPlan& plan : {cuda::GemvPlan{4, 4, 4, 2, 1}, cuda::GemvPlan{4, 2, 8, 1, 1}}) {
    for (const bool swiglu : {false, true}) {
      SCOPED_TRACE(testing::Message() << plan.parts << " parts" << (swiglu ? ", swiglu" : ""));
      const std::int64_t width = swiglu ? n / 2 : n;
      const Tensor y = Tensor::full({m, width}, std::nan(""), out, device_);
      cuda::GemvOptions o;
      o.swiglu = swiglu;
      o.plan = &plan;
      ASSERT_TRUE(cuda::gemv(x.to(device_), weight.to(device_), y, 1, 0, o));
      const auto found = y.to(DType::f64).to_vector<double>();
      const double rounding = out == DType::f32 ? 1e-5 : in == DType::bf16 ? 1.0 / 256 : 1.0 / 2048;
      const double size = std::sqrt(static_cast<double>(k));
      for (std::int64_t i = 0; i < m; ++i) {
        const auto sum = [&](std::int64_t row) {
          double total = 0;
          for (std::int64_t c = 0; c < k; ++c) {
            total += xs[static_cast<std::size_t>(i * k + c)] * ws[static_cast<std::size_t>(row * k + c)];
          }
          return total;
        };
        for (std::int64_t j = 0; j < width; ++j) {
          double expected = sum(j);
          if (swiglu) expected = expected / (1 + std::exp(-expected)) * sum(width + j);
          const double scale = std::max(std::abs(expected), swiglu ? size * size : size);
          ASSERT_NEAR(found[static_cast<std::size_t>(i * width + j)], expected, rounding * scale) << i << ", " << j;
        }
      }
    }
  }
}

TEST_P(CudaGemv, DeclinesWhatItDoesNotDo) {
  const auto [in, out] = GetParam();
  const auto accepts = [&, in = in, out = out](std::int64_t m, std::int64_t k, std::int64_t offset) {
    return cuda::gemv(Tensor::zeros({m, k}, in, device_), Tensor::zeros({5, k + 8}, in, device_).slice(1, offset, k),
                      Tensor::zeros({m, 5}, out, device_));
  };
  EXPECT_TRUE(accepts(8, 16, 0));
  EXPECT_FALSE(accepts(9, 16, 0));
  EXPECT_FALSE(accepts(1, 12, 0));
  EXPECT_FALSE(accepts(1, 16, 1));
  EXPECT_FALSE(cuda::gemv(Tensor::zeros({1, 8}, DType::f32, device_), Tensor::zeros({5, 8}, DType::f32, device_),
                          Tensor::zeros({1, 5}, DType::f32, device_)));
}

}  // namespace
}  // namespace wick
