#pragma once

#include "wick/tensor.h"

namespace wick {

/// c = alpha * a b + beta * c + bias, on the vendor's library, rounded once. a [m, k], b [k, n], c [m, n]; in each, one
/// of the two strides is 1 (a transposed view is free), c's columns are dense. a and b share one dtype (f32, bf16, f16,
/// f64); c has it too, or is f32 for bf16 and f16 inputs. bias [n] of c's dtype, or undefined; with one, beta is 0.
/// Accumulates in float32 (float64 for f64). Empty extents are fine (k = 0 scales c, or leaves the bias).
/// Error(invalid_argument) on shapes, dtypes or strides.
void gemm(const Tensor& a, const Tensor& b, const Tensor& c, double alpha = 1.0, double beta = 0.0,
          const Tensor& bias = {});

/// While one lives, products that this thread computes on an accelerator take the fastest algorithm of the library
/// rather than its first proposal: found by timing when a shape comes for the first time, and kept in a file
/// (gemm_plans.h), so that every run takes the same. For work whose shapes come again many times. What is computed
/// outside of it never depends on what was timed.
class GemmTuning {
 public:
  GemmTuning() noexcept;
  ~GemmTuning();
  GemmTuning(const GemmTuning&) = delete;
  GemmTuning& operator=(const GemmTuning&) = delete;

  static bool wanted() noexcept;  ///< on this thread, now
};

}  // namespace wick
