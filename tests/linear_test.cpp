// What the op matrix's tolerance cannot see of a linear layer in 16 bits: where it rounds.
#include <gtest/gtest.h>

#include "op_matrix.h"

namespace wick::testing {
namespace {

// 256 + 1 lies between two numbers of bf16 and 2048 + 1 between two of f16: a product that is rounded before the bias
// is added loses the 1.
TEST(Linear, AddsTheBiasBeforeItRounds) {
  for (const bool fused : {true, false}) {
    const FusedScope scope(fused);
    for (const DType dtype : {DType::bf16, DType::f16}) {
      const float large = dtype == DType::bf16 ? 256.0F : 2048.0F;
      for (const std::int64_t rows : {1, 5}) {
        SCOPED_TRACE(std::string(to_string(dtype)) + (fused ? " fused, " : " composite, ") + std::to_string(rows));
        const Tensor x = Tensor::full({rows, 2}, 1.0, dtype);
        const Tensor weight = Tensor::from(std::vector<float>{large, 1, 1, large}, {2, 2}).to(dtype);
        const Tensor bias = Tensor::full({2}, -large, dtype);
        EXPECT_EQ(linear(x, weight, bias).to(DType::f32).to_vector<float>(),
                  std::vector<float>(static_cast<std::size_t>(2 * rows), 1.0F));
      }
    }
  }
}

}  // namespace
}  // namespace wick::testing
