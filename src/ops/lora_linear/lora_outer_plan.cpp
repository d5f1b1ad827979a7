#include "ops/lora_linear/lora_outer_plan.h"

#include <algorithm>
#include <optional>

namespace wick::cuda {
namespace {

int ceil_div(int a, int b) { return (a + b - 1) / b; }

// By how many clusters each matrix is divided, none having more than `width` of its boxes across. More than that takes,
// if `most` leaves any, take boxes off the others.
std::array<int, OuterPlan::kMatrices> divide(const int (&boxes)[OuterPlan::kMatrices], int width, int most) {
  std::array<int, OuterPlan::kMatrices> parts = {ceil_div(boxes[0], width), ceil_div(boxes[1], width)};
  while (parts[0] + parts[1] < most) {
    const int wider = std::int64_t{boxes[0]} * parts[1] >= std::int64_t{boxes[1]} * parts[0] ? 0 : 1;
    if (parts[wider] == boxes[wider]) break;
    ++parts[wider];
  }
  return parts;
}

}  // namespace

OuterPlan plan_outer(int row_boxes, const int (&boxes)[OuterPlan::kMatrices], int narrow,
                     const std::array<int, OuterPlan::kMaxCluster + 1>& at_once) {
  constexpr std::int64_t kBoxBytes = OuterPlan::kBox * OuterPlan::kBox * 2;
  const auto plan = [&](int cluster, const std::array<int, OuterPlan::kMatrices>& parts) {
    OuterPlan made;
    made.rows = {row_boxes, cluster};
    for (int i = 0; i < OuterPlan::kMatrices; ++i) made.columns[i] = {boxes[i], parts[i]};
    return made;
  };
  std::optional<OuterPlan> best;
  std::int64_t least = 0;
  for (int cluster = 1; cluster <= OuterPlan::kMaxCluster; ++cluster) {
    const int most = at_once[static_cast<std::size_t>(cluster)];
    int width = 1;
    while (width <= OuterPlan::kMaxBoxes && ceil_div(boxes[0], width) + ceil_div(boxes[1], width) > most) ++width;
    if (width > OuterPlan::kMaxBoxes) continue;
    const OuterPlan next = plan(cluster, divide(boxes, width, most));
    const std::int64_t busiest = ceil_div(row_boxes, cluster) * (width * kBoxBytes + narrow);
    const std::int64_t all = row_boxes * ((boxes[0] + boxes[1]) * kBoxBytes + std::int64_t{next.clusters()} * narrow);
    const std::int64_t cost = busiest + all / std::max(at_once[1], 1);
    if (best && cost >= least) continue;
    best = next;
    least = cost;
  }
  if (!best) best = plan(1, divide(boxes, OuterPlan::kMaxBoxes, 0));
  return *best;
}

}  // namespace wick::cuda
