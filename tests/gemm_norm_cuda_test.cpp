// A product with its residual and layer norm in one kernel, against float64 on the host.
#include "backend/cuda/gemm_norm.h"

#include <gtest/gtest.h>

#include <cstring>

#include "backend/cuda/tensor_map.h"
#include "core/fail.h"
#include "hopper_kernel.h"
#include "op_matrix.h"

namespace wick::testing {
namespace {

TEST(FragmentRows, AreEachRowOnce) {
  std::vector<int> seen(32);
  for (int r = 0; r < 32; ++r) ++seen.at(static_cast<std::size_t>(cuda::fragment_row(r)));
  EXPECT_EQ(seen, std::vector<int>(32, 1));
  // Columns 2 t and 2 t + 1 of the four products of 8 columns are 8 t to 8 t + 7.
  for (int t = 0; t < 4; ++t) {
    for (int e = 0; e < 8; ++e) EXPECT_EQ(cuda::fragment_row(e / 2 * 8 + 2 * t + e % 2), 8 * t + e);
  }
}

class GemmNorm : public HopperKernel {
 protected:
  cuda::NormAfter rest(std::int64_t m, std::int64_t n, DType dtype) {
    return {.bias = random({n}, dtype, 2),
            .residual = random({m, n}, dtype, 3),
            .weight = random({n}, dtype, 1),
            .shift = random({n}, dtype, 1),
            .eps = 1e-12F};
  }
  static Tensor expected(const Tensor& a, const Tensor& weight, const cuda::NormAfter& after) {
    const FusedScope composite(false);
    Tensor sums = add(matmul(wide(a), transpose(wide(weight), 0, 1)), wide(after.residual));
    if (after.bias.defined()) sums = add(sums, wide(after.bias));
    return layer_norm(sums, wide(after.weight), wide(after.shift), after.eps);
  }
};

TEST_F(GemmNorm, IsTheNormOfTheSum) {
  struct Case {
    std::int64_t m, n, k;
  };
  for (const Case& c : {Case{1, 384, 64},
                        {127, 384, 384},
                        {128, 320, 128},
                        {129, 384, 192},
                        {257, 288, 256},
                        {1000, 384, 1536},
                        {20000, 384, 384},
                        {33000, 352, 64}}) {
    for (const DType dtype : {DType::bf16, DType::f16}) {
      SCOPED_TRACE(fmt::format("{} x {} x {} {}", c.m, c.n, c.k, to_string(dtype)));
      const Tensor a = random({c.m, c.k}, dtype, 1);
      const Tensor weight = random({c.n, c.k}, dtype, 0.2);
      cuda::NormAfter after = rest(c.m, c.n, dtype);
      for (const bool biases : {true, false}) {
        if (!biases) after.bias = after.shift = {};
        const Tensor y = Tensor::empty({c.m, c.n}, dtype, device_);
        ASSERT_TRUE(cuda::gemm_norm(a, weight, after, y));
        EXPECT_LE(relative_error(y.to(Device::cpu()), expected(a, weight, after)), 4e-3);
      }
    }
  }
}

TEST_F(GemmNorm, TakesStridedRowsAndKeepsToItsOwn) {
  const Tensor a = random({200, 400}, DType::bf16, 1).slice(1, 8, 384);
  const Tensor weight = random({384, 400}, DType::bf16, 0.2).slice(1, 16, 384);
  cuda::NormAfter after = rest(200, 400, DType::bf16);
  after = {.bias = after.bias.slice(0, 0, 384),
           .residual = after.residual.slice(1, 8, 384),
           .weight = after.weight.slice(0, 8, 384),
           .shift = after.shift.slice(0, 16, 384),
           .eps = 1e-5F};
  const Tensor all = Tensor::full({202, 400}, 7, DType::bf16, device_);
  const Tensor y = all.slice(0, 1, 200).slice(1, 8, 384);
  ASSERT_TRUE(cuda::gemm_norm(a, weight, after, y));
  EXPECT_LE(relative_error(y.contiguous().to(Device::cpu()), expected(a, weight, after)), 4e-3);
  const std::vector<double> whole = wide(all).to_vector<double>();
  for (std::size_t row = 0; row < 202; ++row) {
    for (std::size_t column = 0; column < 400; ++column) {
      if (row >= 1 && row <= 200 && column >= 8 && column < 392) continue;
      ASSERT_EQ(whole[row * 400 + column], 7) << row << ", " << column;
    }
  }
}

// More tiles than a device's clusters take at once.
TEST_F(GemmNorm, TakesTileAfterTile) {
  const Tensor a = random({17300, 128}, DType::bf16, 1);
  const Tensor weight = random({288, 128}, DType::bf16, 0.2);
  const cuda::NormAfter after = rest(17300, 288, DType::bf16);
  const Tensor y = Tensor::empty({17300, 288}, DType::bf16, device_);
  ASSERT_TRUE(cuda::gemm_norm(a, weight, after, y));
  EXPECT_LE(relative_error(y.to(Device::cpu()), expected(a, weight, after)), 4e-3);
}

TEST_F(GemmNorm, ARowDoesNotDependOnOthers) {
  const Tensor a = random({9001, 1536}, DType::bf16, 1);
  const Tensor weight = random({384, 1536}, DType::bf16, 0.2);
  const cuda::NormAfter after = rest(9001, 384, DType::bf16);
  const auto rows = [&](std::int64_t first, std::int64_t count) {
    cuda::NormAfter part = after;
    part.residual = after.residual.slice(0, first, count);
    const Tensor y = Tensor::empty({count, 384}, DType::bf16, device_);
    EXPECT_TRUE(cuda::gemm_norm(a.slice(0, first, count), weight, part, y));
    return y.to(Device::cpu());
  };
  const Tensor all = rows(0, 9001);
  for (const auto& [first, count] : {std::pair<std::int64_t, std::int64_t>{0, 1}, {17, 32}, {8990, 11}, {100, 5000}}) {
    const Tensor part = rows(first, count);
    EXPECT_EQ(std::memcmp(part.raw(), all.slice(0, first, count).raw(), static_cast<std::size_t>(count) * 384 * 2), 0)
        << first << ", " << count;
  }
}

TEST_F(GemmNorm, DeclinesWhatItIsNotMadeFor) {
  const auto taken = [&](std::int64_t n, std::int64_t k, DType dtype) {
    return cuda::gemm_norm(random({70, k}, dtype, 1), random({n, k}, dtype, 1), rest(70, n, dtype),
                           Tensor::empty({70, n}, dtype, device_));
  };
  EXPECT_FALSE(taken(416, 64, DType::bf16));
  EXPECT_FALSE(taken(256, 64, DType::bf16));
  EXPECT_FALSE(taken(376, 64, DType::bf16));
  EXPECT_FALSE(taken(384, 96, DType::bf16));
  EXPECT_FALSE(taken(384, 64, DType::f32));
}

}  // namespace
}  // namespace wick::testing
