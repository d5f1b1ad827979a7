#pragma once

#include <algorithm>

#include "ops/kernel_table.h"

namespace wick {

/// As adamw_step(): flat dense f32 buffers of one length, in place.
using AdamWStep = Declined(const Tensor& parameters, const Tensor& gradients, const Tensor& exp_avg,
                           const Tensor& exp_avg_sq, const AdamWOptions& options, std::int64_t step, double grad_scale);
/// norm (f64, shape []) = the Euclidean norm of a flat dense f32 buffer.
using GradientNorm = Declined(const Tensor& gradients, const Tensor& norm);

/// As clipped_adamw_step().
using ClippedAdamWStep = Declined(const Tensor& parameters, const Tensor& gradients, const Tensor& exp_avg,
                                  const Tensor& exp_avg_sq, const AdamWOptions& options, double max_grad_norm,
                                  const Tensor& schedule, const Tensor& norm);

extern Kernels<AdamWStep> adamw_step_kernels;
extern Kernels<GradientNorm> gradient_norm_kernels;
extern Kernels<ClippedAdamWStep> clipped_adamw_step_kernels;

AdamWStep adamw_step_cpu;
GradientNorm gradient_norm_cpu;
ClippedAdamWStep clipped_adamw_step_cpu;

/// What a gradient of this norm is multiplied by, as torch.nn.utils.clip_grad_norm_ does it; max_grad_norm 0: off.
inline double clip_factor(double norm, double max_grad_norm) {
  return max_grad_norm > 0 ? std::min(1.0, max_grad_norm / (norm + 1e-6)) : 1.0;
}

}  // namespace wick
