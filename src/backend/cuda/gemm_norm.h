#pragma once

#include "wick/tensor.h"

namespace wick::cuda {

/// What stands behind a product: the layer norm of it, its bias and a residual.
struct NormAfter {
  Tensor bias;      ///< [n], or undefined
  Tensor residual;  ///< [m, n]
  Tensor weight;    ///< [n], of the norm
  Tensor shift;     ///< [n], its bias, or undefined
  float eps = 0;
};

/// y = layer norm of (a weightᵀ + bias + residual), rounded once, on Hopper: for up to 384 columns, which a block has
/// whole in its registers. A row's result does not depend on the other rows, nor on their number. a [m, k],
/// weight [n, k], y [m, n], all bf16 or all f16. False, and nothing is done, for what it is not made for.
bool gemm_norm(const Tensor& a, const Tensor& weight, const NormAfter& after, const Tensor& y);

}  // namespace wick::cuda
