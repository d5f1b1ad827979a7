// With WICK_RACECHECK=on kernels have the forms that racecheck of compute-sanitizer can follow. Needs no GPU.
#include <gtest/gtest.h>

#include <cstdlib>

#include "backend/cuda/row_plan.h"
#include "backend/cuda/runtime.h"

namespace wick::cuda {
namespace {

// The variable is read once, when it is first needed.
[[maybe_unused]] const bool switched_on = setenv("WICK_RACECHECK", "on", 1) == 0;

// Every op's kernels, rows of all lengths.
TEST(UnderRacecheck, ClustersAreSmall) {
  EXPECT_TRUE(under_racecheck());
  EXPECT_EQ(largest_cluster(), 2);
  DeviceInfo hopper;
  hopper.major = 9;
  hopper.multiprocessors = 132;
  for (const RowKernels& kernels : {kOneInput, kTwoWeights, kTwoInputs, kBackward}) {
    bool clusters = false;
    for (std::int64_t packs = 1; packs < 100'000; packs += packs / 8 + 1) {
      const RowPlan plan = plan_rows(1000, packs, kernels, hopper);
      EXPECT_LE(plan.cluster, 2) << packs;
      clusters = clusters || plan.cluster == 2;
    }
    EXPECT_TRUE(clusters);
  }
}

}  // namespace
}  // namespace wick::cuda
