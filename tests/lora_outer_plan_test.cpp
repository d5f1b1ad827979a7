// How the blocks of the gradients of LoRA's factors divide the columns and rows.
#include "ops/lora_linear/lora_outer_plan.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <vector>

namespace wick::cuda {
namespace {

using AtOnce = std::array<int, OuterPlan::kMaxCluster + 1>;

// Of a device with 132 multiprocessors, two blocks on each.
constexpr int kMultiprocessors = 132;
constexpr AtOnce kHopper = {0, 264, 132, 86, 60, 46, 40, 30, 30};
constexpr AtOnce kPacked = {0, 264, 132, 88, 66, 52, 44, 37, 33};  // where blocks of a cluster share multiprocessors
constexpr int kBoxBytes = OuterPlan::kBox * OuterPlan::kRows * 2;
constexpr int kNarrow = OuterPlan::kRows * 16 * 2 / 4;  // of rank 16, a part of the bytes

int boxes_of(int extent) { return (extent + OuterPlan::kBox - 1) / OuterPlan::kBox; }
int row_boxes_of(int extent) { return (extent + OuterPlan::kRows - 1) / OuterPlan::kRows; }

void expect_each_box_once(const OuterPlan& plan) {
  std::vector<std::vector<int>> seen;
  for (const auto& columns : plan.columns) seen.emplace_back(static_cast<std::size_t>(columns.count * plan.rows.count));
  for (int cluster = 0; cluster < plan.clusters(); ++cluster) {
    for (int rank = 0; rank < plan.cluster(); ++rank) {
      const OuterPlan::Share share = plan.share(cluster, rank);
      ASSERT_GE(share.boxes, 1);
      ASSERT_LE(share.boxes, OuterPlan::kMaxBoxes);
      auto& matrix = seen[static_cast<std::size_t>(share.matrix)];
      const int across = plan.columns[share.matrix].count;
      for (int row = share.row_box; row < share.row_box + share.row_boxes; ++row) {
        for (int box = share.box; box < share.box + share.boxes; ++box) {
          ASSERT_LT(row, plan.rows.count);
          ASSERT_LT(box, across);
          ++matrix[static_cast<std::size_t>(row * across + box)];
        }
      }
    }
  }
  for (const auto& matrix : seen) {
    for (const int times : matrix) ASSERT_EQ(times, 1);
  }
}

TEST(LoraOuterPlan, GivesEachBoxToOneBlock) {
  const AtOnce devices[] = {kHopper,      kPacked, {0, 1}, {0, 7, 3, 2, 1, 1, 1, 1}, {0, 60, 30, 18, 14, 10, 9, 7, 7},
                            {0, 264, 132}};  // under racecheck: no larger clusters
  for (const AtOnce& at_once : devices) {
    for (const int rows : {1, 64, 65, 1000, 8192}) {
      for (const int k : {0, 8, 200, 896, 4864, 28672}) {
        for (const int n : {0, 8, 1032, 14336, 200000}) {
          if (k + n == 0) continue;
          SCOPED_TRACE(::testing::Message() << rows << " rows, columns " << k << " and " << n << " on " << at_once[1]);
          const OuterPlan plan = plan_outer(row_boxes_of(rows), {boxes_of(k), boxes_of(n)}, kNarrow, at_once);
          expect_each_box_once(plan);
          ASSERT_GT(at_once[static_cast<std::size_t>(plan.cluster())], 0);
          if (HasFatalFailure()) return;
        }
      }
    }
  }
}

TEST(LoraOuterPlan, IsTakenFromATrial) {
  const OuterPlan chosen = divide_outer(128, {32, 32}, 8, 5);
  const OuterPlan other = divide_outer(128, {32, 32}, 2, 1);
  {
    const OuterTrial trial;
    EXPECT_EQ(OuterTrial::settle(chosen).cluster(), 8);
    EXPECT_EQ(trial.plan().cluster(), 8);
  }
  {
    const OuterTrial trial(other);
    EXPECT_EQ(OuterTrial::settle(chosen).cluster(), 2);
    EXPECT_EQ(trial.plan().clusters(), 64);
  }
  EXPECT_EQ(OuterTrial::settle(chosen).clusters(), 14);
}

// Where blocks of a cluster share multiprocessors, a quarter of the rows and one column of boxes for each of 64
// clusters take all of them; else 60 clusters of four find room. By the cost of plan_outer(), in millions:
//   clusters of 4, one box:   16 * (16384 + 1024) * (256 + 32) * (32 + 4) = 2888
//   clusters of 2, one box:   32 * (16384 + 1024) * (128 + 32) * (32 + 2) = 3030
//   clusters of 8, two boxes:  8 * (32768 + 1024) * (256 + 32) * (32 + 8) = 3114
//   clusters of 4, two boxes: 16 * (32768 + 1024) * (128 + 32) * (32 + 4) = 3114
TEST(LoraOuterPlan, TakesClustersOfFourWhereTheyFit) {
  const struct {
    AtOnce at_once;
    int cluster;
  } devices[] = {{kPacked, 4}, {{0, 264, 132, 86, 66, 46, 40, 30, 30}, 4}, {kHopper, 2}};
  for (const auto& [at_once, cluster] : devices) {
    const OuterPlan plan = plan_outer(row_boxes_of(8192), {boxes_of(2048), boxes_of(2048)}, kNarrow, at_once);
    EXPECT_EQ(plan.cluster(), cluster);
    EXPECT_EQ(plan.columns[0].parts, 32);
    EXPECT_EQ(plan.columns[1].parts, 32);
  }
}

// All blocks run at once, on most of the multiprocessors, and none reads much more than its share.
TEST(LoraOuterPlan, SpreadsTheWork) {
  const int shapes[][2] = {{896, 896},   {896, 4864},   {2048, 2048}, {2048, 8192},
                           {4096, 4096}, {4096, 14336}, {896, 1152},  {4864, 0}};
  for (const AtOnce& at_once : {kHopper, kPacked}) {
    for (const int narrow : {kNarrow, 3 * kNarrow}) {
      for (const auto& [k, n] : shapes) {
        SCOPED_TRACE(::testing::Message()
                     << k << "x" << n << ", " << narrow << " bytes beside a box, " << at_once[4] << " clusters of 4");
        const OuterPlan plan = plan_outer(row_boxes_of(8192), {boxes_of(k), boxes_of(n)}, narrow, at_once);
        const int clusters = plan.clusters();
        int most = 0;
        int across = 0;
        for (int cluster = 0; cluster < clusters; ++cluster) {
          for (int rank = 0; rank < plan.cluster(); ++rank) {
            const OuterPlan::Share share = plan.share(cluster, rank);
            const int bytes = share.row_boxes * (share.boxes * kBoxBytes + narrow);
            if (bytes > most) across = share.boxes;
            most = std::max(most, bytes);
          }
        }
        const double even =
            static_cast<double>(row_boxes_of(8192)) * (boxes_of(k) + boxes_of(n)) * kBoxBytes / kMultiprocessors;
        std::printf("%5d x %5d: %2d clusters of %d, up to %2d boxes across, %3d blocks, %.2f of an even share\n", k, n,
                    clusters, plan.cluster(), across, clusters * plan.cluster(), most / even);
        EXPECT_LE(clusters, at_once[static_cast<std::size_t>(plan.cluster())]);
        EXPECT_GE(clusters * plan.cluster(), 100);
        EXPECT_LE(most, 2 * even);
      }
    }
  }
}

}  // namespace
}  // namespace wick::cuda
