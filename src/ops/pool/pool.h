#pragma once

#include "ops/kernel_table.h"

namespace wick {

/// y [sequences, n] of hidden [tokens, n], both with dense columns; offsets i32 [sequences + 1] dense. For max alone
/// picked i32 [sequences, n], dense: the token of each largest value, the first of equals, -1 in a sequence without
/// tokens; undefined for the others.
using PoolForward = Declined(const Tensor& hidden, const Tensor& offsets, Pooling mode, const Tensor& y,
                             const Tensor& picked);
/// Writes every row of dhidden.
using PoolBackward = Declined(const Tensor& dy, const Tensor& offsets, Pooling mode, const Tensor& picked,
                              const Tensor& dhidden);

extern Kernels<PoolForward> pool_forward;
extern Kernels<PoolBackward> pool_backward;

PoolForward pool_forward_cpu;
PoolBackward pool_backward_cpu;

}  // namespace wick
