#pragma once

// The ways to divide the gradients of LoRA's factors that lora_bench times.

#include <algorithm>
#include <vector>

#include "ops/lora_linear/lora_outer_plan.h"

namespace wick::bench {

inline bool same(const cuda::OuterPlan& a, const cuda::OuterPlan& b) {
  return a.cluster() == b.cluster() && a.columns[0].parts == b.columns[0].parts &&
         a.columns[1].parts == b.columns[1].parts;
}

// `chosen` and all others that keep at least half of the multiprocessors busy and whose blocks find room at once.
inline std::vector<cuda::OuterPlan> outer_plans(const cuda::OuterPlan& chosen, int widest, int multiprocessors) {
  const int boxes[] = {chosen.columns[0].count, chosen.columns[1].count};
  const int room = cuda::OuterPlan::kRoom * multiprocessors;
  std::vector<cuda::OuterPlan> plans = {chosen};
  for (int cluster = 1; cluster <= cuda::OuterPlan::kMaxCluster; ++cluster) {
    for (int width = 1; width <= widest; ++width) {
      for (const int most :
           {0, multiprocessors / cluster, room / cluster * 10 / 11, room / cluster, chosen.clusters()}) {
        const cuda::OuterPlan plan = cuda::divide_outer(chosen.rows.count, boxes, cluster, width, most);
        const int blocks = plan.clusters() * cluster;
        if (2 * blocks < multiprocessors || blocks > room) continue;
        const auto is_this = [&](const cuda::OuterPlan& p) { return same(p, plan); };
        if (std::ranges::none_of(plans, is_this)) plans.push_back(plan);
      }
    }
  }
  return plans;
}

}  // namespace wick::bench
