#pragma once

#include "ops/kernel_table.h"

namespace wick {

/// sum (undefined: none) = x + residual; y = rms_norm(sum or x); rstd [rows] f32 = 1 / sqrt(mean(x²) + eps), saved for
/// backward. All matrices [rows, n] with dense columns; x, where there is no residual, may be heads (as_rows_or_heads).
using RmsNormForward = Declined(const Tensor& x, const Tensor& residual, const Tensor& weight, float eps,
                                const Tensor& sum, const Tensor& y, const Tensor& rstd);
/// dx (+= dsum where defined), and dweight f32 where defined. Without dsum x and dx may be heads, each for itself.
using RmsNormBackward = Declined(const Tensor& dy, const Tensor& dsum, const Tensor& x, const Tensor& weight,
                                 const Tensor& rstd, const Tensor& dx, const Tensor& dweight);

extern Kernels<RmsNormForward> rms_norm_forward;
extern Kernels<RmsNormBackward> rms_norm_backward;

RmsNormForward rms_norm_forward_cpu;
RmsNormBackward rms_norm_backward_cpu;

}  // namespace wick
