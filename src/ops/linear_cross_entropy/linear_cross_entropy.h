#pragma once

#include "ops/kernel_table.h"

namespace wick {

/// Over x [tokens, k], weight [vocab, k] and labels i32 [tokens] in [0, vocab) or -1 (nothing is computed for such a
/// row): loss (f32, shape []) = the sum over the other rows, token_losses (f32 [tokens], undefined: not wanted) = each
/// row's own, 0 at -1. Where defined, dx [tokens, k] of x's dtype and dweight f32 [vocab, k] = the gradient of loss.
/// `chunk` rows' logits exist at a time; 0: logit_rows().
using LinearCrossEntropy = Declined(const Tensor& x, const Tensor& weight, const Tensor& labels, double label_smoothing,
                                    std::int64_t chunk, const Tensor& loss, const Tensor& token_losses,
                                    const Tensor& dx, const Tensor& dweight);

/// Of how many rows a device's kernel has the float32 logits at once, at most.
std::int64_t logit_rows(DeviceType device, std::int64_t tokens, std::int64_t vocab, bool gradient = true);

/// targets i32 [tokens] = labels (i32 or i64), -1 for `ignore_index`, -2 (a loss of NaN) outside [0, vocab): what a
/// device does instead of an error, which would wait for it.
using LabelTargets = Declined(const Tensor& labels, std::int64_t vocab, std::int64_t ignore_index,
                              const Tensor& targets);

extern Kernels<LinearCrossEntropy> linear_cross_entropy_kernels;
extern Kernels<LabelTargets> label_targets_kernels;

LinearCrossEntropy linear_cross_entropy_cpu;

}  // namespace wick
