#pragma once

#include "ops/kernel_table.h"

namespace wick {

/// y[t, h] = x[t, h] turned by the angles of row positions[t] of cos and sin (undefined: row t), or turned back. x and
/// y [tokens, heads, d] with dense d and any other strides, cos and sin f32 [max_positions, d/2] dense, positions i32.
using RopeRotate = Declined(const Tensor& x, const Tensor& cos, const Tensor& sin, const Tensor& positions,
                            bool backwards, const Tensor& y);

/// The backward pass is the same rotation, backwards.
extern Kernels<RopeRotate> rope_rotate;

RopeRotate rope_rotate_cpu;

}  // namespace wick
