// Under BatchInvariance a row's bytes are the same in any number of rows.
#include "core/batch_invariance.h"

#include <gtest/gtest.h>

#include <iostream>

#include "backend/backend.h"
#include "backend/cuda/gemm.h"
#include "backend/cuda/gemm_tiled.h"
#include "backend/gemm.h"
#include "core/fail.h"
#include "core/rng.h"
#include "op_matrix.h"
#include "wick/ops.h"

namespace wick::testing {
namespace {

constexpr std::int64_t kMost = 65536;
constexpr std::int64_t kCounts[] = {1, 2, 7, 8, 9, 31, 32, 33, 64, 127, 128, 129, 500, 1000, 4096, 10000, kMost};

class CudaBatchInvariance : public ::testing::Test {
 protected:
  void SetUp() override {
    device_.type = DeviceType::cuda;
    if (const std::string missing = backend(device_).missing(device_); !missing.empty()) GTEST_SKIP() << missing;
  }
  Tensor random(const Shape& shape, DType dtype) {
    const Tensor t = Tensor::empty(shape, DType::f32, device_);
    fill_uniform(t, -1, 1, 5, {RandomPurpose::initialisation, next_++});
    return t.to(dtype);
  }
  // True if c has the rows of `all` from `first` on.
  static bool same(const Tensor& c, const Tensor& all, std::int64_t first) {
    const std::int64_t columns = c.numel() / c.size(0);
    const Tensor right = all.slice(0, first, c.size(0));
    return cuda::same_bytes(reshape(c, {c.size(0), columns}), reshape(right, {c.size(0), columns}));
  }
  static std::string products() {
    std::string all = "products, and what was chosen for them:\n";
    for (const std::string& line : cuda::invariant_products()) all += "  " + line + "\n";
    return all;
  }

  Device device_;

 private:
  std::uint32_t next_ = 0;
};

struct Extents {
  std::int64_t n, k;
};

TEST_F(CudaBatchInvariance, ARowOfAProductDoesNotDependOnTheOthers) {
  const BatchInvariance invariant;
  for (const auto& [n, k] : {Extents{768, 768},
                             {2304, 768},
                             {3072, 768},
                             {768, 3072},
                             {1024, 1024},
                             {4096, 1024},
                             {1024, 4096},
                             {32, 768},
                             {768, 16},
                             {1152, 384},
                             {384, 1536}}) {
    for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
      const Tensor a = random({kMost, k}, dtype);
      const Tensor weight = random({n, k}, dtype);
      const Tensor bias = random({n}, dtype);
      for (const int kind : {0, 1, 2}) {  // alone, with a bias, added
        SCOPED_TRACE(fmt::format("{} x {} {}, kind {}", n, k, to_string(dtype), kind));
        const auto product = [&](const Tensor& rows) {
          const Tensor c = Tensor::full({rows.size(0), n}, 1, dtype, device_);
          gemm(rows, weight.transpose(0, 1), c, 1, kind == 2 ? 1 : 0, kind == 1 ? bias : Tensor());
          return c;
        };
        const Tensor all = product(a);
        for (const std::int64_t m : kCounts) {
          for (const std::int64_t first : {std::int64_t{0}, (kMost - m) / 2 + 1, kMost - m}) {
            if (first + m > kMost || (first > 0 && m > 1000)) continue;
            ASSERT_TRUE(same(product(a.slice(0, first, m)), all, first)) << m << " rows from " << first << "\n"
                                                                         << products();
          }
        }
      }
    }
  }
  std::cout << products();
  EXPECT_EQ(products().find("plain kernel"), std::string::npos) << "right, but slow";
}

// An adapter's factors are slices of wider matrices.
TEST_F(CudaBatchInvariance, NorDoesOneOfStridedRows) {
  const BatchInvariance invariant;
  for (const DType dtype : {DType::f32, DType::bf16}) {
    SCOPED_TRACE(to_string(dtype));
    const Tensor h = random({3000, 48}, dtype).slice(1, 16, 8);
    const Tensor b = random({2304, 48}, dtype).slice(0, 768, 768).slice(1, 16, 8);
    const auto product = [&](const Tensor& rows) {
      const Tensor y = Tensor::full({rows.size(0), 2304}, 1, dtype, device_).slice(1, 768, 768);
      gemm(rows, b.transpose(0, 1), y, 1, 1);
      return y;
    };
    const Tensor all = product(h);
    for (const std::int64_t m : {1, 2, 9, 130, 1000}) {
      EXPECT_TRUE(same(product(h.slice(0, 17, m)), all, 17)) << m << " rows\n" << products();
    }
  }
}

TEST_F(CudaBatchInvariance, ItsProductsAreRight) {
  const BatchInvariance invariant;
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const std::int64_t m : {1, 5, 700}) {
      SCOPED_TRACE(fmt::format("{} rows, {}", m, to_string(dtype)));
      const Tensor a = random({m, 768}, dtype);
      const Tensor weight = random({200, 768}, dtype);
      const Tensor bias = random({200}, dtype);
      const auto wide = [](const Tensor& t) { return t.to(Device::cpu()).to(DType::f64); };
      const Tensor right = add(matmul(wide(a), transpose(wide(weight), 0, 1)), wide(bias));
      const double tolerance = dtype == DType::f32 ? 1e-5 : 4e-3;
      const Tensor c = Tensor::empty({m, 200}, dtype, device_);
      gemm(a, weight.transpose(0, 1), c, 1, 0, bias);
      EXPECT_LE(relative_error(c.to(Device::cpu()), right), tolerance);
      cuda::gemm_tiled(a, weight.transpose(0, 1), c, 1, 0, bias);
      EXPECT_LE(relative_error(c.to(Device::cpu()), right), tolerance);
      cuda::gemm_tiled(a, weight.transpose(0, 1), c, -1, 1, {});
      EXPECT_LE(relative_error(add(c.to(Device::cpu()).to(DType::f64), right), add(right, wide(bias))), 2 * tolerance);
    }
  }
}

TEST_F(CudaBatchInvariance, NorDoNormsAndAttention) {
  const BatchInvariance invariant;
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const std::int64_t n : {384, 768, 1024, 2048, 4096, 10000}) {
      SCOPED_TRACE(fmt::format("{} columns, {}", n, to_string(dtype)));
      const Tensor x = random({5000, n}, dtype);
      const Tensor residual = random({5000, n}, dtype);
      const Tensor weight = random({n}, dtype);
      const auto norms = [&](std::int64_t first, std::int64_t m) {
        const Tensor rows = x.slice(0, first, m);
        const Tensor added = residual.slice(0, first, m);
        return std::vector{layer_norm(rows, weight, weight, 1e-12), rms_norm(rows, weight, 1e-6),
                           layer_norm_residual(rows, added, weight, weight, 1e-12),
                           rms_norm_residual(rows, added, weight, 1e-6).second};
      };
      const std::vector<Tensor> all = norms(0, 5000);
      for (const std::int64_t m : {1, 3, 100, 1000}) {
        const std::vector<Tensor> found = norms(21, m);
        for (std::size_t i = 0; i < all.size(); ++i)
          EXPECT_TRUE(same(found[i], all[i], 21)) << m << " rows, norm " << i;
      }
    }
    for (const bool causal : {false, true}) {
      for (const std::int64_t longest : {1, 128, 300}) {
        SCOPED_TRACE(fmt::format("attention of {} tokens, {}", longest, to_string(dtype)));
        std::vector<std::int32_t> offsets = {0};
        for (int i = 0; i < 200; ++i) {
          offsets.push_back(offsets.back() + static_cast<std::int32_t>(longest - (i * 7) % ((longest + 1) / 2)));
        }
        const Tensor qkv = random({offsets.back(), 3 * 12, 64}, dtype);
        const auto attend = [&](std::size_t begin, std::size_t end) {
          const std::int64_t first = offsets[begin];
          const Tensor rows = qkv.slice(0, first, offsets[end] - first);
          std::vector<std::int32_t> own;
          std::int64_t most = 0;
          for (std::size_t i = begin; i <= end; ++i) {
            own.push_back(offsets[i] - offsets[begin]);
            if (i > begin) most = std::max<std::int64_t>(most, offsets[i] - offsets[i - 1]);
          }
          return attention(
              rows.slice(1, 0, 12), rows.slice(1, 12, 12), rows.slice(1, 24, 12),
              {.causal = causal, .query_offsets = Tensor::from(own, {std::ssize(own)}).to(device_), .longest = most});
        };
        const Tensor all = attend(0, 200);
        for (const std::size_t i : {0U, 1U, 50U, 199U}) {
          EXPECT_TRUE(same(attend(i, i + 1), all, offsets[i])) << "sequence " << i;
        }
      }
    }
  }
}

}  // namespace
}  // namespace wick::testing
