#pragma once

#include "ops/kernel_table.h"

namespace wick {

/// Up to here decoding is bound by reading weights, and kernels stream the weight past all tokens at once.
inline constexpr std::int64_t kFewTokens = 8;

/// The layer of a plain weight [n, k] with dense columns: x [tokens, k] with tokens <= kFewTokens, y [tokens, n] or
/// [tokens, n / 2], bias [n] or undefined; matrices with dense columns. `fusion.border` is the caller's affair.
using FusedLinearForward = Declined(const Tensor& x, const Tensor& weight, const Tensor& bias,
                                    const LinearFusion& fusion, const Tensor& y);

/// y = gelu(x weightᵀ + bias) for any number of tokens; otherwise the same.
using LinearGeluForward = Declined(const Tensor& x, const Tensor& weight, const Tensor& bias, GeluKind kind,
                                   const Tensor& y);
extern Kernels<LinearGeluForward> linear_gelu_forward;

/// y = layer_norm(x weightᵀ + bias + fusion.residual, fusion.after, ...) likewise.
using LinearNormForward = Declined(const Tensor& x, const Tensor& weight, const Tensor& bias,
                                   const LinearFusion& fusion, const Tensor& y);
extern Kernels<LinearNormForward> linear_norm_forward;

// No kernel for the CPU: its gemm() reads the weight as fast, and the rest is little beside it.
extern Kernels<FusedLinearForward> fused_linear_forward;

}  // namespace wick
