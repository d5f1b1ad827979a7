// Masters into borders: all of a model's at once as one by one, to the bit, on the device of WICK_TEST_DEVICE.
#include "ops/lora_linear/lora_refresh.h"

#include <gtest/gtest.h>

#include <random>

#include "backend/backend.h"
#include "op_matrix.h"

namespace wick::testing {
namespace {

Tensor random(const Shape& shape, unsigned seed, Device device) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<std::size_t>(numel(shape)));
  for (float& value : values) value = normal(generator);
  return Tensor::from(values, shape).to(device);
}

class Refresh : public ::testing::TestWithParam<DType> {};
INSTANTIATE_TEST_SUITE_P(Dtypes, Refresh, ::testing::Values(DType::bf16, DType::f16, DType::f32),
                         [](const auto& param) { return std::string(to_string(param.param)); });

TEST_P(Refresh, OfManyWeightsIsThatOfEach) {
  const Device device = test_device();
  struct Sibling {
    std::int64_t out, rank;
    double scale;
  };
  struct Case {
    std::int64_t in;
    std::vector<Sibling> siblings;
    LoraLayout layout;
  };
  const Case cases[] = {
      {1032, {{264, 8, 2.0}, {40, 8, 0.3}}, LoraLayout::bordered},
      {33, {{17, 3, 0.7}, {9, 0, 1.0}, {5, 1, 1.5}}, LoraLayout::bordered},  // nothing aligned
      {72, {{1, 16, 1.0}}, LoraLayout::separate},
      {520, {{1040, 16, 0.125}}, LoraLayout::bordered},  // several blocks a factor
  };
  std::vector<LoraWeight> all;
  std::vector<LoraWeight> each;
  std::vector<std::vector<LoraBranch>> masters;
  std::vector<LoraWeight::Copy> copies;
  unsigned seed = 1;
  for (const Case& c : cases) {
    std::vector<LoraBranch> branches;
    std::int64_t out = 0;
    for (const Sibling& s : c.siblings) {
      LoraBranch branch{s.out, {}, {}, s.scale};
      if (s.rank > 0) {
        branch.a = random({s.rank, c.in}, seed++, device);
        branch.b = random({s.out, s.rank}, seed++, device);
      }
      branches.push_back(branch);
      out += s.out;
    }
    const Tensor weight = random({out, c.in}, seed++, device).to(GetParam());
    all.emplace_back(weight, branches, c.layout);
    each.emplace_back(weight, branches, c.layout);
    masters.push_back(branches);
    for (const LoraWeight::Copy& copy : all.back().copies(branches)) copies.push_back(copy);
  }
  LoraRefresh refresh(copies);
  for (int step = 0; step < 2; ++step) {
    for (std::size_t i = 0; i < all.size(); ++i) {
      for (const LoraBranch& branch : masters[i]) {
        if (!branch.a.defined()) continue;
        branch.a.copy_from(random(branch.a.shape(), seed++, device));
        branch.b.copy_from(random(branch.b.shape(), seed++, device));
      }
      each[i].refresh(masters[i]);
    }
    refresh.run();
    for (std::size_t i = 0; i < all.size(); ++i) {
      const auto numbers = [](const Tensor& t) { return t.to(DType::f32).to_vector<float>(); };
      EXPECT_EQ(numbers(all[i].a()), numbers(each[i].a())) << "A of weight " << i;
      EXPECT_EQ(numbers(all[i].scaled_b()), numbers(each[i].scaled_b())) << "B of weight " << i;
      EXPECT_EQ(numbers(all[i].core()), numbers(each[i].core())) << "the core of weight " << i;
    }
  }
}

TEST(RefreshAll, OfNothingIsNothing) { LoraRefresh().run(); }

}  // namespace
}  // namespace wick::testing
