// With WICK_RACECHECK=no-clusters rows are in no clusters. Needs no GPU.
#include <gtest/gtest.h>

#include <cstdlib>

#include "backend/cuda/row_plan.h"
#include "backend/cuda/runtime.h"

namespace wick::cuda {
namespace {

// The variable is read once, when it is first needed.
[[maybe_unused]] const bool switched_on = setenv("WICK_RACECHECK", "no-clusters", 1) == 0;

// Every op's kernels, rows of all lengths: those too long for a block are read in passes.
TEST(WithoutClusters, RowsHaveNone) {
  EXPECT_TRUE(under_racecheck());
  EXPECT_EQ(largest_cluster(), 1);
  DeviceInfo hopper;
  hopper.major = 9;
  hopper.multiprocessors = 132;
  for (const RowKernels& kernels : {kOneInput, kTwoWeights, kTwoInputs, kBackward}) {
    for (std::int64_t packs = 1; packs < 100'000; packs += packs / 8 + 1) {
      EXPECT_EQ(plan_rows(1000, packs, kernels, hopper).cluster, 1) << packs;
    }
  }
}

}  // namespace
}  // namespace wick::cuda
