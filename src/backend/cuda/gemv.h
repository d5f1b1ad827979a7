#pragma once

#include "backend/cuda/gemv_plan.h"
#include "wick/tensor.h"

namespace wick::cuda {

struct GemvOptions {
  Tensor norm;  ///< [k] of x's dtype: rms_norm(x, norm, eps) takes x's place; undefined: x as it is
  float eps = 0;
  Tensor bias;          ///< [n] of x's dtype; undefined: none
  Tensor residual;      ///< of y's shape and dtype, added to the result; may be y; undefined: none
  bool swiglu = false;  ///< weight is gate [n / 2, k] above up [n / 2, k], y [m, n / 2] is silu(gate) * up
  /// Nothing that may still be at work writes weight or norm: their beginnings may be fetched while earlier kernels
  /// run. It is not enough that the kernel before does not write them: it may have begun before its own predecessor
  /// ended.
  bool frozen = false;
  const GemvPlan* plan =
      nullptr;  ///< one of gemv_plans(), to time it; null: the one that is expected to be the fastest
};

/// y = alpha x weightᵀ + bias + residual + beta y for few rows, at the speed at which the weight can be read: x [m, k]
/// with m at most 8, weight [n, k], both bf16 or f16; y [m, n] of x's dtype or f32. Columns are dense. Accumulates in
/// float32, in an order that depends on n and k only. With swiglu that of alpha x weightᵀ + bias takes the product's
/// place. False, and nothing is done, for other dtypes and extents, k no multiple of 8, an x or weight whose rows are
/// not aligned to 16 bytes, and where x does not fit in a block's shared memory. With norm every block normalises x
/// for itself, which is less than what a kernel more would cost.
bool gemv(const Tensor& x, const Tensor& weight, const Tensor& y, float alpha = 1, float beta = 0,
          const GemvOptions& options = {});

}  // namespace wick::cuda
