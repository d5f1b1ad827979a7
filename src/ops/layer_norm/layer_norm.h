#pragma once

#include "ops/kernel_table.h"

namespace wick {

/// y = (x - mean) * rstd * weight + bias (undefined: none); stats [2, rows] f32 = mean and rstd = 1 / sqrt(var + eps),
/// saved for backward. All matrices [rows, n] with dense columns.
using LayerNormForward = Declined(const Tensor& x, const Tensor& weight, const Tensor& bias, float eps, const Tensor& y,
                                  const Tensor& stats);
/// dx where defined; dparams [2, n] f32, where defined, = dweight and dbias.
using LayerNormBackward = Declined(const Tensor& dy, const Tensor& x, const Tensor& weight, const Tensor& stats,
                                   const Tensor& dx, const Tensor& dparams);

extern Kernels<LayerNormForward> layer_norm_forward;
extern Kernels<LayerNormBackward> layer_norm_backward;

LayerNormForward layer_norm_forward_cpu;
LayerNormBackward layer_norm_backward_cpu;

}  // namespace wick
