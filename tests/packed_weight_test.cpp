// Products with a packed weight against f64, and row by row against themselves.
#include "backend/cpu/packed_weight.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>
#include <cstring>

#include "core/rng.h"
#include "ops/linear/packed_linear.h"
#include "wick/error.h"

namespace wick::test {
namespace {

Tensor random(const Shape& shape, DType dtype, std::uint32_t index) {
  Tensor t = Tensor::empty(shape, DType::f32);
  fill_uniform(t, -1, 1, 1, {RandomPurpose::initialisation, index});
  return t.to(dtype);
}

double bound(DType dtype) { return dtype == DType::f32 ? 2e-6 : 8e-3; }

TEST(PackedWeightTest, GivesTheProductWithBiasAndGelu) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const auto& [n, k] : {std::pair{1, 1}, {5, 7}, {192, 33}, {193, 64}, {400, 129}}) {
      const Tensor weight = random({n, k}, dtype, 1);
      const PackedWeight packed(weight);
      const Tensor bias = random({n}, dtype, 2);
      for (const std::int64_t m : {0, 1, 2, 9, 64, 65, 200}) {
        const Tensor x = random({m, k}, dtype, 3);
        const Tensor wide = linear(x.to(DType::f64), weight.to(DType::f64), bias.to(DType::f64));
        for (const std::optional<GeluKind> kind : {std::optional<GeluKind>(), {GeluKind::exact}, {GeluKind::tanh}}) {
          const Tensor found = packed_linear(x, packed, bias, kind).to(DType::f64);
          const Tensor expected = kind ? gelu(wide, *kind) : wide;
          for (std::int64_t i = 0; i < m * n; ++i) {
            const double e = expected.data<double>()[i];
            ASSERT_NEAR(found.data<double>()[i], e, bound(dtype) * (std::abs(e) + std::sqrt(k)))
                << to_string(dtype) << " " << m << "x" << n << "x" << k << " at " << i;
          }
        }
      }
    }
  }
}

TEST(PackedWeightTest, ARowsBytesDependOnTheRowAlone) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const auto& [n, k] : {std::pair{100, 48}, {384, 384}, {384, 1536}, {200, 1000}}) {
      const PackedWeight packed(random({n, k}, dtype, 1));
      constexpr std::int64_t kRows = 150;
      const Tensor x = random({kRows, k}, dtype, 2);
      const Tensor expected = packed_linear(x, packed, {});
      const std::size_t row = static_cast<std::size_t>(n) * size_of(dtype);
      for (const int threads : {1, 2, 5}) {
        const int before = omp_get_max_threads();
        omp_set_num_threads(threads);
        for (std::int64_t m = 1; m <= 80; ++m) {
          const std::int64_t first = (m * 37) % (kRows - m);
          const Tensor found = packed_linear(x.slice(0, first, m), packed, {});
          EXPECT_EQ(std::memcmp(found.raw(), expected.raw() + static_cast<std::size_t>(first) * row,
                                static_cast<std::size_t>(m) * row),
                    0)
              << to_string(dtype) << ", " << m << " rows, " << threads << " threads, " << n << "x" << k;
        }
        omp_set_num_threads(before);
      }
    }
  }
}

TEST(PackedWeightTest, RefusesWhatDoesNotFit) {
  const PackedWeight packed(random({4, 6}, DType::f32, 1));
  EXPECT_THROW(packed_linear(random({2, 5}, DType::f32, 2), packed, {}), Error);
  EXPECT_THROW(packed_linear(random({2, 6}, DType::bf16, 2), packed, {}), Error);
  EXPECT_THROW(packed_linear(random({2, 6}, DType::f32, 2), packed, random({3}, DType::f32, 3)), Error);
}

}  // namespace
}  // namespace wick::test
