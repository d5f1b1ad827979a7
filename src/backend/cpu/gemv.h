#pragma once

#include "wick/tensor.h"

namespace wick {

/// c = alpha x weightᵀ + beta c for one row, in bf16: x [1, k], weight [n, k], c [1, n] in bf16 or f32, the last
/// dimension of each dense, k > 0. Accumulates in float32. Reads the weight once, as it lies, where oneDNN's bf16
/// matmul packs it first. The result does not depend on the thread count.
void gemv_bf16(const Tensor& x, const Tensor& weight, const Tensor& c, float alpha, float beta);

}  // namespace wick
