#include "ops/lora_linear/lora_outer_plan.h"

namespace wick::cuda {
namespace {

int ceil_div(int a, int b) { return (a + b - 1) / b; }

}  // namespace

OuterPlan plan_outer(int row_boxes, const int (&boxes)[OuterPlan::kMatrices], int narrow,
                     const std::array<int, OuterPlan::kMaxCluster + 1>& at_once) {
  constexpr int kBoxBytes = OuterPlan::kBox * OuterPlan::kBox * 2;
  const auto clusters = [&](int width) { return ceil_div(boxes[0], width) + ceil_div(boxes[1], width); };
  int cluster = 1;
  int width = OuterPlan::kMaxBoxes;  // more than run at once, unless a better way is found
  std::int64_t least = 0;
  for (int size = 1; size <= OuterPlan::kMaxCluster; ++size) {
    for (int across = 1; across <= OuterPlan::kMaxBoxes; ++across) {
      if (clusters(across) > at_once[static_cast<std::size_t>(size)]) continue;
      const std::int64_t bytes = std::int64_t{ceil_div(row_boxes, size)} * (across * kBoxBytes + narrow);
      if (least == 0 || bytes < least) {
        least = bytes;
        cluster = size;
        width = across;
      }
      break;
    }
  }
  int counts[OuterPlan::kMatrices] = {ceil_div(boxes[0], width), ceil_div(boxes[1], width)};
  // More clusters than it takes leave fewer columns to some.
  while (counts[0] + counts[1] < at_once[static_cast<std::size_t>(cluster)]) {
    const int wider = std::int64_t{boxes[0]} * counts[1] >= std::int64_t{boxes[1]} * counts[0] ? 0 : 1;
    if (counts[wider] == boxes[wider]) break;
    ++counts[wider];
  }
  OuterPlan plan;
  plan.rows = {row_boxes, cluster};
  for (int i = 0; i < OuterPlan::kMatrices; ++i) plan.columns[i] = {boxes[i], counts[i]};
  return plan;
}

}  // namespace wick::cuda
