#include "ops/attention/attention_decode_plan.h"

#include <gtest/gtest.h>

#include <bit>
#include <vector>

#include "backend/cuda/runtime.h"

namespace wick::cuda {
namespace {

// What an H200 says of the kernels for heads of 64 and 128: clusters of 1, 2, 4 and 8 blocks that run at once.
int resident(int blocks) {
  constexpr int kFound[] = {264, 132, 62, 30};
  return kFound[std::bit_width(static_cast<unsigned>(blocks)) - 1];
}
DecodeShape shape_of(std::int64_t units, int head_dim, std::int64_t keys) {
  return {units, keys, head_dim <= 64 ? 256 : 128, 16, head_dim, 2};
}

TEST(DecodePlan, EveryBlockRunsAtOnceAndHasKeys) {
  for (const int head_dim : {64, 128}) {
    for (const std::int64_t units : {1, 2, 8, 15, 31, 64, 130, 264, 1000}) {
      for (std::int64_t keys = 0; keys < 1'000'000; keys += keys / 3 + 1) {
        const DecodeShape shape = shape_of(units, head_dim, keys);
        for (const int largest : {1, 2, 8}) {
          const DecodePlan plan = choose_decode_plan(shape, largest, resident);
          SCOPED_TRACE(testing::Message()
                       << units << " units, " << keys << " keys, " << plan.clusters << " clusters of " << plan.blocks);
          ASSERT_LE(plan.blocks, largest);
          ASSERT_LE(plan.clusters, kDecodeMaxClusters);
          ASSERT_TRUE(std::has_single_bit(static_cast<unsigned>(plan.blocks)));
          if (plan == DecodePlan{}) continue;
          ASSERT_LE(units * plan.clusters, resident(plan.blocks));
          ASSERT_LT(plan.blocks / 2 * 16, keys);
          ASSERT_LT((plan.clusters - 1) * plan.blocks * shape.keys_at_once, keys);
        }
      }
    }
  }
}

// Measured on an H200 with all of these divisions: within a twentieth of the best, in microseconds.
TEST(DecodePlan, IsAmongTheFastestThatWereMeasured) {
  struct Case {
    std::int64_t units;
    int head_dim;
    std::int64_t keys;
    std::vector<DecodePlan> good;
  };
  const Case cases[] = {
      {2, 64, 257, {{8, 1}}},                                     // a token of Qwen2.5-0.5B 0.538 ms; with {2, 1} 0.550
      {8, 64, 257, {{2, 1}}},                                     // of Llama-3.2-1B 0.799 ms; with {8, 1} 0.827
      {2, 64, 8192, {{2, 8}, {4, 4}, {8, 2}, {8, 3}, {8, 4}}},    // 7.5 to 7.8
      {8, 64, 8192, {{8, 1}, {2, 8}, {4, 4}, {2, 4}}},            // 11.1 to 11.6
      {8, 128, 8192, {{8, 3}, {4, 6}, {2, 16}, {2, 8}, {4, 7}}},  // 15.5 to 15.8
      {8, 64, 32768, {{4, 7}, {2, 16}, {2, 8}, {1, 16}}},         // 23.5 to 24.2
      {8, 128, 32768, {{2, 16}, {4, 7}}},                         // 37.9, 38.1
      {8, 64, 131072, {{2, 8}, {2, 16}, {1, 16}, {4, 7}}},        // 71.5 to 72.8
      {8, 128, 131072, {{2, 16}, {4, 7}, {1, 32}}},               // 128.2 to 129.5
  };
  for (const Case& c : cases) {
    const DecodePlan plan = choose_decode_plan(shape_of(c.units, c.head_dim, c.keys), kMaxCluster, resident);
    bool found = false;
    for (const DecodePlan& good : c.good) found = found || plan == good;
    EXPECT_TRUE(found) << c.units << " units of " << c.head_dim << ", " << c.keys << " keys: " << plan.clusters
                       << " clusters of " << plan.blocks;
  }
}

// A batch of more queries than run at once needs no division.
TEST(DecodePlan, ManyUnitsHaveABlockEach) {
  EXPECT_EQ(choose_decode_plan(shape_of(1000, 64, 100'000), kMaxCluster, resident), DecodePlan{});
}

}  // namespace
}  // namespace wick::cuda
