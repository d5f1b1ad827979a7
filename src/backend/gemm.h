#pragma once

#include "wick/tensor.h"

namespace wick {

/// c = alpha * a b + beta * c, on the vendor's library. a [m, k], b [k, n], c [m, n]; in each, one of the two strides
/// is 1 (a transposed view is free), c's columns are dense. a and b share one dtype (f32, bf16, f16, f64); c has it
/// too, or is f32 for bf16 and f16 inputs. Accumulates in float32 (float64 for f64). Empty extents are fine (k = 0
/// scales c). Error(invalid_argument) on shapes, dtypes or strides.
void gemm(const Tensor& a, const Tensor& b, const Tensor& c, double alpha = 1.0, double beta = 0.0);

}  // namespace wick
