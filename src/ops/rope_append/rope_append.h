#pragma once

#include "ops/kernel_table.h"

namespace wick {

/// y = q turned, keys and values rows [end - tokens, end) = k turned and v; see rope_append(). q, k and v with dense d
/// and any other strides; cos and sin f32, dense; keys, values and y dense; end i32 [1], checked on the host only.
using RopeAppend = Declined(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& cos, const Tensor& sin,
                            const Tensor& end, const Tensor& keys, const Tensor& values, const Tensor& y);

extern Kernels<RopeAppend> rope_append_kernels;

RopeAppend rope_append_cpu;

/// Error(invalid_argument) for arguments that rope_append() does not take.
void check_rope_append(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& cos, const Tensor& sin,
                       const Tensor& end, const Tensor& keys, const Tensor& values);

}  // namespace wick
