#include "core/rng.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>
#include <vector>

#include "wick/error.h"

namespace wick {
namespace {

using Words = std::array<std::uint32_t, 4>;
constexpr RandomStream kStream{RandomPurpose::sampling, 5};

// The known answers of the Random123 package for philox4x32-10.
TEST(Philox, KnownAnswers) {
  constexpr std::uint32_t kOnes = 0xffffffff;
  EXPECT_EQ(philox({0, 0, 0, 0}, {0, 0}), (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox({kOnes, kOnes, kOnes, kOnes}, {kOnes, kOnes}),
            (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Rng, EverySeedPurposeIndexAndBlockIsItsOwnCounter) {
  std::set<Words> seen;
  std::size_t drawn = 0;
  for (const std::uint64_t seed : {0ULL, 1ULL, 1ULL << 32}) {
    for (const RandomPurpose purpose :
         {RandomPurpose::initialisation, RandomPurpose::dropout, RandomPurpose::shuffle, RandomPurpose::sampling}) {
      for (const std::uint32_t index : {0U, 1U, 2U}) {
        for (const std::uint64_t block : {0ULL, 1ULL, 2ULL, 1ULL << 32}) {
          seen.insert(random_block(seed, {purpose, index}, block));
          ++drawn;
        }
      }
    }
  }
  EXPECT_EQ(seen.size(), drawn);
}

TEST(Rng, ReadsItsStreamInOrder) {
  Rng rng(42, kStream);
  for (std::uint64_t block = 0; block < 3; ++block) {
    for (const std::uint32_t word : random_block(42, kStream, block)) EXPECT_EQ(rng.word(), word);
  }
}

TEST(Rng, ASavedStateContinuesBitForBit) {
  Rng first(7, kStream);
  first.normal();
  first.uniform();
  const RngState saved = first.state();
  EXPECT_EQ(saved.position, 5U);
  Rng second(saved);
  for (int i = 0; i < 20; ++i) EXPECT_EQ(first.normal(), second.normal());
  EXPECT_EQ(first.state(), second.state());
}

TEST(Rng, UnitFloatsStayBelowOne) {
  EXPECT_EQ(unit_float(0), 0.0F);
  EXPECT_LT(unit_float(0xffffffff), 1.0F);
  EXPECT_EQ(unit_float(0x80000000), 0.5F);
}

TEST(Rng, UniformAndNormalHaveTheirMoments) {
  constexpr int kCount = 200000;
  Rng rng(3, kStream);
  double uniform = 0, sum = 0, squares = 0, cubes = 0, fourths = 0;
  for (int i = 0; i < kCount; ++i) uniform += static_cast<double>(rng.uniform());
  for (int i = 0; i < kCount; ++i) {
    const double z = rng.normal();
    ASSERT_TRUE(std::isfinite(z));
    sum += z;
    squares += z * z;
    cubes += z * z * z;
    fourths += z * z * z * z;
  }
  // Five standard errors each.
  const double error = 5 / std::sqrt(static_cast<double>(kCount));
  EXPECT_NEAR(uniform / kCount, 0.5, error * std::sqrt(1.0 / 12));
  EXPECT_NEAR(sum / kCount, 0.0, error);
  EXPECT_NEAR(squares / kCount, 1.0, error * std::sqrt(2.0));
  EXPECT_NEAR(cubes / kCount, 0.0, error * std::sqrt(15.0));
  EXPECT_NEAR(fourths / kCount, 3.0, error * std::sqrt(96.0));
}

TEST(Rng, BelowIsUniform) {
  Rng rng(11, kStream);
  std::array<int, 7> counts{};
  for (int i = 0; i < 70000; ++i) ++counts[rng.below(7)];
  for (const int count : counts) EXPECT_NEAR(count, 10000, 5 * std::sqrt(10000.0 * 6 / 7));
  EXPECT_EQ(rng.below(1), 0U);
  EXPECT_THROW(rng.below(0), Error);
}

TEST(Rng, ShuffleIsAPermutationOfItsSeed) {
  std::vector<int> order(1000);
  std::iota(order.begin(), order.end(), 0);
  std::vector<int> again = order;
  std::vector<int> other = order;
  Rng a(1, {RandomPurpose::shuffle, 0}), b(1, {RandomPurpose::shuffle, 0}), c(1, {RandomPurpose::shuffle, 1});
  shuffle(std::span(order), a);
  shuffle(std::span(again), b);
  shuffle(std::span(other), c);
  EXPECT_EQ(order, again);
  EXPECT_NE(order, other);
  std::sort(other.begin(), other.end());
  for (int i = 0; i < 1000; ++i) EXPECT_EQ(other[static_cast<std::size_t>(i)], i);
}

// Large enough for several threads: each element is its own word, whoever computes it.
TEST(Rng, FillIsTheStreamElementByElement) {
  const Tensor t = Tensor::empty({40003}, DType::f32);
  fill_uniform(t, -2.0, 6.0, 9, kStream, 100);
  for (std::uint64_t i = 0; i < 40003; ++i) {
    ASSERT_EQ(t.data<float>()[i], -2.0F + 8.0F * unit_float(random_block(9, kStream, 100 + i / 4)[i % 4]));
  }
  const Tensor narrow = Tensor::empty({40003}, DType::bf16);  // the same numbers, rounded
  fill_uniform(narrow, -2.0, 6.0, 9, kStream, 100);
  const Tensor rounded = t.to(DType::bf16);
  for (std::int64_t i = 0; i < 40003; ++i) {
    ASSERT_EQ(narrow.data<bf16>()[i].bits, rounded.data<bf16>()[i].bits);
  }
  EXPECT_THROW(fill_uniform(Tensor::empty({4}, DType::i32), 0, 1, 9, kStream), Error);
}

TEST(Rng, KaimingUniformHasItsBound) {
  const Tensor weight = Tensor::empty({16, 400}, DType::f32);
  fill_kaiming_uniform(weight, std::sqrt(5.0), 1, {RandomPurpose::initialisation, 0});
  const std::vector<float> values = weight.to_vector<float>();
  const auto [low, high] = std::minmax_element(values.begin(), values.end());
  EXPECT_GE(*low, -0.05F);  // 1 / sqrt(400)
  EXPECT_LE(*high, 0.05F);
  EXPECT_LT(*low, -0.0495F);
  EXPECT_GT(*high, 0.0495F);
}

}  // namespace
}  // namespace wick
