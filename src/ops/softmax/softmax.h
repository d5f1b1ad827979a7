#pragma once

#include "ops/kernel_table.h"

namespace wick {

/// y = exp(x - max) / sum, row by row. All matrices [rows, n] with dense columns.
using SoftmaxForward = Declined(const Tensor& x, const Tensor& y);
/// dx = y * (dy - sum(dy * y)).
using SoftmaxBackward = Declined(const Tensor& dy, const Tensor& y, const Tensor& dx);

extern Kernels<SoftmaxForward> softmax_forward;
extern Kernels<SoftmaxBackward> softmax_backward;

SoftmaxForward softmax_forward_cpu;
SoftmaxBackward softmax_backward_cpu;

}  // namespace wick
