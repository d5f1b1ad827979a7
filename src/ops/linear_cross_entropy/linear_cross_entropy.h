#pragma once

#include "ops/kernel_table.h"

namespace wick {

/// Over x [tokens, k], weight [vocab, k] and labels i32 [tokens] in [0, vocab) or -1 (nothing is computed for such a
/// row): loss (f32, shape []) = the sum over the other rows, token_losses (f32 [tokens], undefined: not wanted) = each
/// row's own, 0 at -1. Where defined, dx [tokens, k] of x's dtype and dweight f32 [vocab, k] = the gradient of loss.
/// `chunk` rows' logits exist at a time; 0: the kernel chooses.
using LinearCrossEntropy = Declined(const Tensor& x, const Tensor& weight, const Tensor& labels, double label_smoothing,
                                    std::int64_t chunk, const Tensor& loss, const Tensor& token_losses,
                                    const Tensor& dx, const Tensor& dweight);

extern Kernels<LinearCrossEntropy> linear_cross_entropy_kernels;

LinearCrossEntropy linear_cross_entropy_cpu;

}  // namespace wick
