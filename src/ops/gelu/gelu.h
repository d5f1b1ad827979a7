#pragma once

#include "ops/kernel_table.h"

namespace wick {

/// y = x Phi(x), by either formula. All matrices [rows, n] with dense columns.
using GeluForward = Declined(const Tensor& x, GeluKind kind, const Tensor& y);
using GeluBackward = Declined(const Tensor& dy, const Tensor& x, GeluKind kind, const Tensor& dx);

extern Kernels<GeluForward> gelu_forward;
extern Kernels<GeluBackward> gelu_backward;

GeluForward gelu_forward_cpu;
GeluBackward gelu_backward_cpu;

}  // namespace wick
