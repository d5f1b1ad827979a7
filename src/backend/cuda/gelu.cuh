#pragma once

// GELU for results of 16 bits.

#include <numbers>

#include "backend/cuda/ptx.cuh"
#include "wick/ops.h"

namespace wick::cuda {

/// x Phi(x) as x / (1 + exp(-x p(x²))). By tanh p is linear; for the exact one x p(x²) is fitted to log(Phi / (1 -
/// Phi)) on [-6, 6], which leaves an error of 1.1e-3 of the value there, and beyond of 2e-9 at most.
template <GeluKind kKind>
__device__ inline float gelu_near(float x) {
  float square = x * x;
  float p;
  if constexpr (kKind == GeluKind::exact) {
    square = fminf(square, 36.0F);
    p = -3.66849395e-9F;
    p = fmaf(p, square, 2.72057321e-7F);
    p = fmaf(p, square, 1.73145304e-6F);
    p = fmaf(p, square, -9.01651918e-4F);
    p = fmaf(p, square, 7.54295439e-2F);
    p = fmaf(p, square, 1.5931139F);
  } else {
    p = fmaf(square, 0.0713548163F, 1.59576912F);  // 2 sqrt(2/pi) (1 + 0.044715 x²)
  }
  const float e = fast_exp2(x * p * -std::numbers::log2e_v<float>);
  return __fdividef(x, 1.0F + e);
}

}  // namespace wick::cuda
