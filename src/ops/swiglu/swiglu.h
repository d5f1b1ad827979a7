#pragma once

#include "ops/kernel_table.h"

namespace wick {

/// y = silu(gate) * up. All matrices [rows, n] with dense columns.
using SwigluForward = Declined(const Tensor& gate, const Tensor& up, const Tensor& y);
/// Either gradient may be undefined: not asked for. dup may be dy itself.
using SwigluBackward = Declined(const Tensor& dy, const Tensor& gate, const Tensor& up, const Tensor& dgate,
                                const Tensor& dup);

extern Kernels<SwigluForward> swiglu_forward;
extern Kernels<SwigluBackward> swiglu_backward;

SwigluForward swiglu_forward_cpu;
SwigluBackward swiglu_backward_cpu;

}  // namespace wick
