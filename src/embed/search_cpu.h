#pragma once

#include <cstddef>

#include "wick/tensor.h"

namespace wick {

/// scores[q * stride + r] = the dot product of query q with row begin + r of the matrix, for `rows` of its rows, and
/// squares[r] = that of the row with itself. matrix f32, f16 or bf16 [n, columns], queries f32 [count, columns], both
/// dense on the host. Each sum is made in one order, whatever the rest is.
void row_products(const Tensor& matrix, std::int64_t begin, std::int64_t rows, const float* queries, std::size_t count,
                  float* scores, std::size_t stride, float* squares);

}  // namespace wick
