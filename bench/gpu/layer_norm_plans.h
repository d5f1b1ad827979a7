#pragma once

#include <functional>
#include <string>
#include <vector>

#include "wick/tensor.h"

namespace wick::bench {

struct LayerNormPlan {
  std::string name;
  std::function<void()> run;
};

/// Layer norm of bf16 rows [rows, columns] that a cluster holds, in each way that row_plan.h's ClusterRows might choose
/// and that fits: y and stats (float32 [2, rows], mean and rstd) from x, weight and bias. The tensors have to outlive
/// the result.
std::vector<LayerNormPlan> layer_norm_plans(const Tensor& x, const Tensor& weight, const Tensor& bias, float eps,
                                            const Tensor& y, const Tensor& stats);

}  // namespace wick::bench
