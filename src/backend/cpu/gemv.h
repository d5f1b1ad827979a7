#pragma once

#include <cstdint>

#include "wick/tensor.h"

namespace wick {

/// The most rows of x that gemv() takes: beyond, a weight that is read once for all of them no longer decides the time.
inline constexpr std::int64_t kGemvRows = 4;

/// c = alpha x weightᵀ + beta c for a few rows: x [m <= kGemvRows, k], weight [n, k], c [m, n], the last dimension of
/// each dense, k > 0. x and weight are both f32 or both bf16, c is of their dtype or f32; accumulates in float32. Reads
/// the weight once, as it lies, where a GEMM library packs it first. The result does not depend on the thread count.
void gemv(const Tensor& x, const Tensor& weight, const Tensor& c, float alpha, float beta);

}  // namespace wick
