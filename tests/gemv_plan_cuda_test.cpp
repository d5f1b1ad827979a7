#include "backend/cuda/gemv_plan.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace wick::cuda {
namespace {

constexpr int kMultiprocessors = 132;

// Which chunks of which units the kernel's loops fetch, and which they use, in the same order.
void expect_each_once(const GemvShape& shape, const GemvPlan& plan, int resident) {
  const GemvDivision d = divide(shape, plan);
  const int size = gemv_batch(plan.loads, shape.swiglu);
  const int blocks = gemv_blocks(d, kMultiprocessors, resident);
  ASSERT_EQ(plan.warps, d.parts * d.teams);
  ASSERT_LE(plan.warps, gemv_max_warps(plan.loads));
  ASSERT_GE(size, 1);
  std::vector<int> used(static_cast<std::size_t>(d.units) * static_cast<std::size_t>(d.chunks));
  for (int block = 0; block < blocks; ++block) {
    ASSERT_LT(block, d.turns) << "a block without work";
    for (int warp = 0; warp < plan.warps; ++warp) {
      ASSERT_EQ(d.part(warp), warp % plan.parts);
      ASSERT_EQ(d.team(warp), warp / plan.parts);
      for (int turn = block; turn < d.turns; turn += blocks) {
        int last = -1;
        for (int batch = 0; batch < d.batches; ++batch) {
          for (int i = 0; i < size; ++i) {
            const int chunk = d.chunk(d.part(warp), batch, size, i);
            ASSERT_GT(chunk, last);
            last = chunk;
            const int unit = d.unit(turn, warp);
            if (chunk >= d.chunks || unit >= d.units) continue;
            ++used[static_cast<std::size_t>(unit) * static_cast<std::size_t>(d.chunks) +
                   static_cast<std::size_t>(chunk)];
          }
        }
      }
    }
  }
  EXPECT_EQ(std::ranges::count(used, 1), static_cast<std::ptrdiff_t>(used.size()))
      << shape.n << " x " << shape.k << ", " << plan.warps << " warps, " << plan.parts << " parts";
}

std::vector<GemvShape> shapes() {
  std::vector<GemvShape> all;
  for (const bool swiglu : {false, true}) {
    for (const std::int64_t n : {1, 7, 8, 9, 896, 1152, 4864}) {
      for (const std::int64_t k : {8, 72, 896, 4864}) all.push_back({n, k, swiglu});
    }
  }
  for (const std::int64_t n : {2048, 3072}) all.push_back({n, 2048, false});
  all.push_back({8192, 2048, true});
  all.push_back({2048, 8192, false});
  return all;
}

TEST(GemvPlan, ReadsEveryChunkOfEveryRowOnce) {
  for (const GemvShape& shape : shapes()) {
    for (const GemvPlan& plan : gemv_plans(shape, kMultiprocessors)) {
      for (int resident = 1; resident <= plan.resident; ++resident) expect_each_once(shape, plan, resident);
    }
  }
}

TEST(GemvPlan, ChoosesTheOneThatIsExpectedToBeFastest) {
  for (const GemvShape& shape : shapes()) {
    const std::vector<GemvPlan> plans = gemv_plans(shape, kMultiprocessors);
    const GemvPlan plan = choose_gemv_plan(shape, kMultiprocessors);
    EXPECT_TRUE(std::ranges::find(plans, plan) != plans.end());
    for (const GemvPlan& other : plans) {
      EXPECT_LE(gemv_time(shape, plan, kMultiprocessors), gemv_time(shape, other, kMultiprocessors));
    }
  }
}

}  // namespace
}  // namespace wick::cuda
