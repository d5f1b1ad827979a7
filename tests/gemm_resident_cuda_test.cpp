// Products by a weight that stays in shared memory, with and without a GELU, against float64 on the host.
#include "backend/cuda/gemm_resident.h"

#include <gtest/gtest.h>

#include <cstring>

#include "core/fail.h"
#include "hopper_kernel.h"
#include "op_matrix.h"

namespace wick::testing {
namespace {

class ResidentGemm : public HopperKernel {
 protected:
  static Tensor expected(const Tensor& a, const Tensor& weight, const Tensor& bias, std::optional<GeluKind> kind) {
    Tensor y = matmul(wide(a), transpose(wide(weight), 0, 1));
    if (bias.defined()) y = add(y, wide(bias));
    const FusedScope composite(false);
    return kind ? gelu(y, *kind) : y;
  }
};

TEST_F(ResidentGemm, IsTheProduct) {
  struct Case {
    std::int64_t m, n, k;
  };
  for (const Case& c : {Case{1, 192, 64},
                        {63, 384, 128},
                        {64, 384, 384},
                        {65, 1152, 384},
                        {700, 1536, 384},
                        {20000, 192, 384},
                        {9000, 1152, 320},
                        {130, 152, 192},
                        {300, 1000, 256}}) {
    for (const DType dtype : {DType::bf16, DType::f16}) {
      const Tensor a = random({c.m, c.k}, dtype, 1);
      const Tensor weight = random({c.n, c.k}, dtype, 0.2);
      const Tensor bias = random({c.n}, dtype, 2);
      for (const std::optional<GeluKind> kind :
           {std::optional<GeluKind>(), std::optional(GeluKind::exact), std::optional(GeluKind::tanh)}) {
        SCOPED_TRACE(
            fmt::format("{} x {} x {} {} {}", c.m, c.n, c.k, to_string(dtype), kind ? static_cast<int>(*kind) : -1));
        for (const Tensor& b : {bias, Tensor()}) {
          const Tensor y = Tensor::empty({c.m, c.n}, dtype, device_);
          ASSERT_TRUE(cuda::gemm_resident(a, weight, y, b, kind));
          EXPECT_LE(relative_error(y.to(Device::cpu()), expected(a, weight, b, kind)), 4e-3);
        }
      }
    }
  }
}

// Every bf16 number through the GELU alone: a product with one column that is 1.
TEST_F(ResidentGemm, KeepsSmallValuesOfTheGelu) {
  constexpr std::int64_t kCount = 4096;
  Tensor a = Tensor::zeros({kCount, 64}, DType::f32);
  for (std::int64_t i = 0; i < kCount; ++i) {
    a.data<float>()[i * 64] = static_cast<float>(i - kCount / 2) * (6.0F / (kCount / 2));
  }
  Tensor weight = Tensor::zeros({192, 64}, DType::f32);
  for (std::int64_t i = 0; i < 192; ++i) weight.data<float>()[i * 64] = 1;
  a = a.to(DType::bf16);
  const Tensor y = Tensor::empty({kCount, 192}, DType::bf16, device_);
  ASSERT_TRUE(cuda::gemm_resident(a.to(device_), weight.to(DType::bf16).to(device_), y, {}, GeluKind::exact));
  const std::vector<double> found = wide(y).to_vector<double>();
  const std::vector<double> in = wide(a).to_vector<double>();
  for (std::size_t i = 0; i < kCount; ++i) {
    const double x = in[i * 64];
    const double right = x * 0.5 * std::erfc(-x / std::sqrt(2.0));
    EXPECT_NEAR(found[i * 192], right, 6e-3 * std::abs(right)) << x;
    EXPECT_EQ(found[i * 192], found[i * 192 + 191]) << x;
  }
}

TEST_F(ResidentGemm, TakesStridedRowsAndKeepsToItsOwn) {
  const Tensor a = random({200, 400}, DType::bf16, 1).slice(1, 8, 384);
  const Tensor weight = random({384, 400}, DType::bf16, 0.2).slice(1, 16, 384);
  const Tensor all = Tensor::full({203, 400}, 7, DType::bf16, device_);
  const Tensor y = all.slice(0, 1, 200).slice(1, 8, 384);
  ASSERT_TRUE(cuda::gemm_resident(a, weight, y, {}));
  EXPECT_LE(relative_error(y.contiguous().to(Device::cpu()), expected(a, weight, {}, {})), 4e-3);
  const std::vector<double> whole = wide(all).to_vector<double>();
  for (std::size_t row = 0; row < 203; ++row) {
    for (std::size_t column = 0; column < 400; ++column) {
      if (row >= 1 && row <= 200 && column >= 8 && column < 392) continue;
      ASSERT_EQ(whole[row * 400 + column], 7) << row << ", " << column;
    }
  }
}

// More tiles than a device's groups of warps take at once.
TEST_F(ResidentGemm, TakesTileAfterTile) {
  const Tensor a = random({3300, 128}, DType::bf16, 1);
  const Tensor weight = random({1536, 128}, DType::bf16, 0.2);
  const Tensor y = Tensor::empty({3300, 1536}, DType::bf16, device_);
  ASSERT_TRUE(cuda::gemm_resident(a, weight, y, {}));
  EXPECT_LE(relative_error(y.to(Device::cpu()), expected(a, weight, {}, {})), 4e-3);
}

TEST_F(ResidentGemm, ARowDoesNotDependOnOthers) {
  const Tensor a = random({9001, 384}, DType::bf16, 1);
  const Tensor weight = random({1536, 384}, DType::bf16, 0.2);
  const Tensor bias = random({1536}, DType::bf16, 1);
  const auto product = [&](std::int64_t first, std::int64_t count) {
    const Tensor y = Tensor::empty({count, 1536}, DType::bf16, device_);
    EXPECT_TRUE(cuda::gemm_resident(a.slice(0, first, count), weight, y, bias, GeluKind::exact));
    return y.to(Device::cpu());
  };
  const Tensor all = product(0, 9001);
  for (const auto& [first, count] : {std::pair<std::int64_t, std::int64_t>{0, 1}, {17, 32}, {8990, 11}, {100, 5000}}) {
    const Tensor part = product(first, count);
    EXPECT_EQ(std::memcmp(part.raw(), all.slice(0, first, count).raw(), static_cast<std::size_t>(count) * 1536 * 2), 0)
        << first << ", " << count;
  }
}

TEST_F(ResidentGemm, DeclinesWhatItIsNotMadeFor) {
  const auto taken = [&](std::int64_t n, std::int64_t k, DType dtype) {
    return cuda::gemm_resident(random({70, k}, dtype, 1), random({n, k}, dtype, 1),
                               Tensor::empty({70, n}, dtype, device_), {});
  };
  EXPECT_FALSE(taken(192, 448, DType::bf16));
  EXPECT_FALSE(taken(192, 96, DType::bf16));
  EXPECT_FALSE(taken(196, 64, DType::bf16));
  EXPECT_FALSE(taken(16, 64, DType::bf16));
  EXPECT_FALSE(taken(192, 64, DType::f32));
}

}  // namespace
}  // namespace wick::testing
