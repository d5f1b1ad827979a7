#pragma once

#include "ops/kernel_table.h"

namespace wick {

/// The length below which a row is divided by this instead.
inline constexpr double kSmallestLength = 1e-12;

/// lengths f32 [rows] = max(|x|, kSmallestLength), y = x / lengths. Matrices [rows, n] with dense columns.
using L2NormalizeForward = Declined(const Tensor& x, const Tensor& y, const Tensor& lengths);
/// With y = x / length: dx = (dy - y (y·dy)) / length. Where the length is the smallest there is, which does not depend
/// on x, dx = dy / length.
using L2NormalizeBackward = Declined(const Tensor& dy, const Tensor& x, const Tensor& lengths, const Tensor& dx);

extern Kernels<L2NormalizeForward> l2_normalize_forward;
extern Kernels<L2NormalizeBackward> l2_normalize_backward;

L2NormalizeForward l2_normalize_forward_cpu;
L2NormalizeBackward l2_normalize_backward_cpu;

}  // namespace wick
