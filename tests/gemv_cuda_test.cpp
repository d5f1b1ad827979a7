#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <span>

#include "backend/backend.h"
#include "backend/cuda/gemv_streamed.h"
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

// The kernels, those of Hopper with and without a ring that goes round. Each declines what it is not for.
using Gemv = bool (*)(const Tensor& x, const Tensor& weight, const Tensor& y, float alpha, float beta,
                      const cuda::GemvOptions& options);
constexpr cuda::GemvPlan kTight = {.warps = 3, .blocks = 2, .stage = 1, .ring = 1, .in_flight = 1};
const Gemv kWays[] = {
    [](const auto& x, const auto& weight, const auto& y, float alpha, float beta, const auto& options) {
      return cuda::gemv(x, weight, y, alpha, beta, options);
    },
    cuda::gemv_in_registers,
    [](const auto& x, const auto& weight, const auto& y, float alpha, float beta, const auto& options) {
      return cuda::gemv_streamed(x, weight, y, alpha, beta, options, kTight);
    }};

std::vector<std::byte> bytes_of(const Tensor& t) {
  const Tensor host = t.to(Device::cpu()).contiguous();
  const auto* first = static_cast<const std::byte*>(host.raw());
  return {first, first + static_cast<std::size_t>(host.numel()) * size_of(host.dtype())};
}

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
    for (const std::int64_t n : {2, 8, 38, 1154, 4870}) {
      if (n > 2000 && k > 72) continue;  // several groups of columns in a block
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
          std::vector<double> expected;
          for (std::int64_t i = 0; i < m; ++i) {
            const auto sum = [&](std::int64_t row) {
              double total = 0;
              for (std::int64_t c = 0; c < k; ++c) {
                total += xs[static_cast<std::size_t>(i * k + c)] * ws[static_cast<std::size_t>(row * k + c)];
              }
              return alpha * total + (more ? bs[static_cast<std::size_t>(row)] : 0);
            };
            for (std::int64_t j = 0; j < width; ++j) {
              double value = sum(j);
              if (swiglu) value = value / (1 + std::exp(-value)) * sum(width + j);
              const auto index = static_cast<std::size_t>(i * width + j);
              if (more) value += rs[index];
              if (in_place) value += ys[index];
              expected.push_back(value);
            }
          }
          for (const Gemv& way : kWays) {
            SCOPED_TRACE(testing::Message() << "way " << &way - kWays);
            y_rows.slice(1, 1, width).copy_from(before.to(device_));
            const bool done = way(x_rows.slice(1, 0, k), weight_rows.slice(1, 8, k), y_rows.slice(1, 1, width),
                                  static_cast<float>(alpha), static_cast<float>(beta), o);
            if (&way - kWays == 2 && (!frozen || cuda::info().major < 9)) {
              ASSERT_FALSE(done);
              continue;
            }
            ASSERT_TRUE(done);
            const auto found = y_rows.to(DType::f64).to_vector<double>();
            for (std::int64_t i = 0; i < m; ++i) {
              const auto at = [&](std::int64_t column) {
                return found[static_cast<std::size_t>(i * (width + 3) + column)];
              };
              EXPECT_EQ(at(0), 77);
              EXPECT_EQ(at(width + 1), 77);
              EXPECT_EQ(at(width + 2), 77);
              for (std::int64_t j = 0; j < width; ++j) {
                const double wanted = expected[static_cast<std::size_t>(i * width + j)];
                const double scale = std::max(std::abs(wanted), swiglu ? size * size : size);
                ASSERT_NEAR(at(j + 1), wanted, rounding * scale) << i << ", " << j;
              }
            }
          }
        }
      }
    }
  }
}

// How much lies in shared memory, how much is under way, and which block has a column changes no byte.
TEST_P(CudaGemv, ResultsDoNotDependOnTheRing) {
  if (cuda::info().major < 9) GTEST_SKIP() << "no kernel for this device";
  const auto [in, out] = GetParam();
  for (const bool swiglu : {false, true}) {
    const std::int64_t k = 912;
    const std::int64_t n = 4870;
    cuda::GemvOptions options;
    options.norm = random({k}, in, 3).to(device_);
    options.swiglu = swiglu;
    options.frozen = true;
    const Tensor x = random({2, k}, in, 1).to(device_);
    const Tensor weight = random({n, k}, in, 2).to(device_);
    std::vector<std::byte> first;
    for (const cuda::GemvPlan& plan : {cuda::GemvPlan{},
                                       {.ring = 1, .in_flight = 1},
                                       {.ring = 200, .in_flight = 200},
                                       {.blocks = 2, .ring = 48},
                                       {.blocks = 2, .ring = 24, .in_flight = 8}}) {
      for (int again = 0; again < 3; ++again) {  // kernels that overlap
        const Tensor y = Tensor::zeros({2, swiglu ? n / 2 : n}, out, device_);
        ASSERT_TRUE(cuda::gemv_streamed(x, weight, y, 1, 0, options, plan));
        const std::vector<std::byte> bytes = bytes_of(y);
        if (first.empty()) first = bytes;
        EXPECT_TRUE(bytes == first) << "ring " << plan.ring << ", blocks " << plan.blocks;
      }
    }
  }
}

// Products that read what the one before wrote, as many under way as find room, give what they give one by one.
TEST_P(CudaGemv, ChainsOverlap) {
  const auto [in, out] = GetParam();
  if (in != out) return;
  const std::int64_t k = 896;
  std::vector<Tensor> weights;
  for (unsigned i = 0; i < 12; ++i) {
    weights.push_back(random({i % 2 == 0 ? 2 * 4864 : k, i % 2 == 0 ? k : 4864}, in, i).to(device_));
  }
  const Tensor norm = random({k}, in, 20).to(device_);
  const Tensor given = random({1, k}, in, 21).to(device_);
  const auto chain = [&](bool together) {
    Tensor x = given;
    for (std::size_t i = 0; i < weights.size(); ++i) {
      cuda::GemvOptions options;
      options.frozen = true;
      options.swiglu = i % 2 == 0;
      if (i % 2 == 0) {
        options.norm = norm;
        options.eps = 1e-6F;
      }
      const Tensor y = Tensor::empty({1, i % 2 == 0 ? 4864 : k}, in, device_);
      EXPECT_TRUE(cuda::gemv(x, weights[i], y, 1, 0, options));
      if (!together) backend(device_).synchronize(device_);
      x = y;
    }
    return bytes_of(x);
  };
  const std::vector<std::byte> alone = chain(false);
  for (int again = 0; again < 20; ++again) EXPECT_TRUE(chain(true) == alone);
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
