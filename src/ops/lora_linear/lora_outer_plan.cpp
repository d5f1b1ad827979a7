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

OuterPlan plan_of(int row_boxes, const int (&boxes)[OuterPlan::kMatrices], int cluster,
                  const std::array<int, OuterPlan::kMatrices>& parts) {
  OuterPlan made;
  made.rows = {row_boxes, cluster};
  for (int i = 0; i < OuterPlan::kMatrices; ++i) made.columns[i] = {boxes[i], parts[i]};
  return made;
}

thread_local OuterTrial* trial = nullptr;

}  // namespace

OuterPlan divide_outer(int row_boxes, const int (&boxes)[OuterPlan::kMatrices], int cluster, int width, int most) {
  return plan_of(row_boxes, boxes, cluster, divide(boxes, width, most));
}

OuterPlan plan_outer(int row_boxes, const int (&boxes)[OuterPlan::kMatrices], int narrow,
                     const std::array<int, OuterPlan::kMaxCluster + 1>& at_once, int widest) {
  constexpr std::int64_t kBoxBytes = OuterPlan::kBox * OuterPlan::kRows * 2;
  // Found by measuring plans (lora_bench --outer-plans): so many blocks more, and for each block of a cluster, which
  // begin together and wait for each other, one in so many parts of the time. Few blocks do not use all of memory.
  constexpr std::int64_t kStart = 32;
  constexpr std::int64_t kAlone = 32;
  const std::int64_t fewest = 3 * at_once[1] / 8;
  std::optional<OuterPlan> best;
  std::int64_t least = 0;
  // Clusters of other sizes leave gaps in the groups of multiprocessors, and begin late beside a kernel that ends.
  for (int cluster = 1; cluster <= OuterPlan::kMaxCluster; cluster *= 2) {
    for (int width = 1; width <= widest; ++width) {
      const OuterPlan next = divide_outer(row_boxes, boxes, cluster, width);
      if (next.clusters() > at_once[static_cast<std::size_t>(cluster)]) continue;
      const std::int64_t busiest = ceil_div(row_boxes, cluster) * (width * kBoxBytes + narrow);
      const std::int64_t blocks = std::max(std::int64_t{next.clusters()} * cluster, fewest);
      const std::int64_t cost = busiest * (blocks + kStart) * (kAlone + cluster);
      if (best && cost >= least) continue;
      best = next;
      least = cost;
    }
  }
  return best ? *best : divide_outer(row_boxes, boxes, 1, widest);
}

OuterTrial::OuterTrial(const OuterPlan& plan) : forced_(plan.clusters() > 0), plan_(plan) { trial = this; }
OuterTrial::~OuterTrial() { trial = nullptr; }

OuterPlan OuterTrial::settle(const OuterPlan& chosen) {
  if (trial == nullptr) return chosen;
  if (!trial->forced_) trial->plan_ = chosen;
  return trial->plan_;
}

}  // namespace wick::cuda
