#pragma once

#include "ops/kernel_table.h"

namespace wick {

/// y[i] = table[ids[i]]: table and y [.., d] with dense columns, ids i32, in range.
using EmbeddingForward = Declined(const Tensor& table, const Tensor& ids, const Tensor& y);
/// dtable[id] = the sum, in order, of the rows of dy whose id it is; every other row is zero.
using EmbeddingBackward = Declined(const Tensor& dy, const Tensor& ids, const Tensor& dtable);

extern Kernels<EmbeddingForward> embedding_forward;
extern Kernels<EmbeddingBackward> embedding_backward;

EmbeddingForward embedding_forward_cpu;
EmbeddingBackward embedding_backward_cpu;

}  // namespace wick
