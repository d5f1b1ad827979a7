#pragma once

// The ways to divide the gradients of LoRA's factors that lora_bench times.

#include <algorithm>
#include <vector>

#include "ops/lora_linear/lora_outer_plan.h"

namespace wick::bench {

inline bool same(const cuda::OuterPlan& a, const cuda::OuterPlan& b) {
  return a.cluster() == b.cluster() && a.columns[0].parts == b.columns[0].parts &&
         a.columns[1].parts == b.columns[1].parts && a.room == b.room && a.copy_rows == b.copy_rows;
}

// `chosen` and all others that keep at least half of the multiprocessors busy and whose blocks run at once.
inline std::vector<cuda::OuterPlan> outer_plans(const cuda::OuterPlan& chosen, int widest, int multiprocessors) {
  const int boxes[] = {chosen.columns[0].count, chosen.columns[1].count};
  std::vector<cuda::OuterPlan> plans = {chosen};
  for (int cluster = 1; cluster <= cuda::OuterPlan::kMaxCluster; ++cluster) {
    for (int width = 1; width <= widest; ++width) {
      for (const int most : {0, multiprocessors / cluster, chosen.clusters()}) {
        cuda::OuterPlan plan = cuda::divide_outer(chosen.rows.count, boxes, cluster, width, most);
        const int blocks = plan.clusters() * cluster;
        for (plan.room = 1; plan.room <= cuda::OuterPlan::kMaxRoom; ++plan.room) {
          if (2 * blocks < multiprocessors || blocks > plan.room * multiprocessors) continue;
          for (plan.copy_rows = 16; plan.copy_rows <= cuda::OuterPlan::kBox; plan.copy_rows *= 4) {
            const auto is_this = [&](const cuda::OuterPlan& p) { return same(p, plan); };
            if (std::ranges::none_of(plans, is_this)) plans.push_back(plan);
          }
        }
      }
    }
  }
  return plans;
}

}  // namespace wick::bench
