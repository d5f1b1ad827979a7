#pragma once

#include <array>
#include <cstdint>

namespace wick::cuda {

/// The blocks of the kernel of lora_outer.cuh have boxes of one matrix or of two, with the same rows. A cluster has
/// some columns of one matrix, its blocks divide the rows. Those of the first matrix begin first.
struct OuterPlan {
  static constexpr int kMatrices = 2;
  static constexpr int kBox = 64;    ///< columns of a box
  static constexpr int kRows = 128;  ///< rows of it
  static constexpr int kMaxCluster = 8;
  static constexpr int kMaxBoxes = 12;  ///< across, of a cluster: the registers hold their sums, of rank 16
  static constexpr int kRoom = 2;       ///< blocks that find room on a multiprocessor
  /// Shared memory of each of them: Hopper's has 228 KiB and keeps 1 for each block.
  static constexpr int kSharedBytes = (228 / kRoom - 1) * 1024;

  /// `count` things in parts as equal as can be.
  struct Parts {
    int count = 0, parts = 0;
    int each = 0, longer = 0;  ///< so many in each part, one more in the first parts

    constexpr Parts() = default;
    constexpr Parts(int things, int of) : count(things), parts(of), each(of > 0 ? things / of : 0) {
      longer = count - each * parts;
    }
    constexpr int begin(int part) const { return part * each + (part < longer ? part : longer); }
    constexpr int size(int part) const { return each + (part < longer ? 1 : 0); }
  };

  Parts rows;                ///< the boxes down, by the blocks of a cluster
  Parts columns[kMatrices];  ///< the boxes across, by the clusters; none where there is no matrix

  constexpr int cluster() const { return rows.parts; }  ///< blocks
  constexpr int clusters() const { return columns[0].parts + columns[1].parts; }

  /// What a block has: of a matrix, `boxes` boxes across from `box` on, and `row_boxes` down from `row_box` on.
  struct Share {
    int matrix, box, boxes, row_box, row_boxes;
  };
  constexpr Share share(int index, int rank) const {
    const int matrix = index < columns[0].parts ? 0 : 1;
    const int place = index - (matrix == 0 ? 0 : columns[0].parts);
    return {matrix, columns[matrix].begin(place), columns[matrix].size(place), rows.begin(rank), rows.size(rank)};
  }
};

/// By clusters of `cluster` blocks that have up to `width` boxes across: as many as that takes, and up to `most` if
/// that is more.
OuterPlan divide_outer(int row_boxes, const int (&boxes)[OuterPlan::kMatrices], int cluster, int width, int most = 0);

/// `at_once`: how many clusters of each size run at a time; `widest`: boxes across that a cluster may have. The boxes
/// of a row come with others that cost as much as `narrow` bytes. All blocks run at once, where that can be, and share
/// what memory gives: the busiest one ends when all would if each had as much. So of the ways to divide the boxes it is
/// the one with the least of that, where what is not shared counts as some blocks more, and a cluster's size for
/// itself.
OuterPlan plan_outer(int row_boxes, const int (&boxes)[OuterPlan::kMatrices], int narrow,
                     const std::array<int, OuterPlan::kMaxCluster + 1>& at_once, int widest = OuterPlan::kMaxBoxes);

/// While one lives, the products that its thread launches are divided by this plan; without one (of no clusters) it
/// notes how they are. For benchmarks, which time one plan beside another.
class OuterTrial {
 public:
  explicit OuterTrial(const OuterPlan& plan = {});
  ~OuterTrial();
  OuterTrial(const OuterTrial&) = delete;
  OuterTrial& operator=(const OuterTrial&) = delete;

  const OuterPlan& plan() const { return plan_; }
  /// What the launch has to take in the place of `chosen`.
  static OuterPlan settle(const OuterPlan& chosen);

 private:
  bool forced_;
  OuterPlan plan_;
};

}  // namespace wick::cuda
