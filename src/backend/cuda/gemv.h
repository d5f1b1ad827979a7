#pragma once

#include "wick/tensor.h"

namespace wick::cuda {

struct GemvOptions {
  Tensor bias;          ///< [n] of x's dtype; undefined: none
  Tensor residual;      ///< of y's shape and dtype, added to the result; undefined: none
  bool swiglu = false;  ///< weight is gate [n / 2, k] above up [n / 2, k], y [m, n / 2] is silu(gate) * up
  /// The weight was written before the last thing that was queued began, as a model's weights are: its first rows may
  /// be fetched while that still runs.
  bool frozen = false;
};

/// y = alpha x weightᵀ + bias + residual + beta y for few rows, at the speed at which the weight can be read: x [m, k]
/// with m at most 8, weight [n, k], both bf16 or f16; y [m, n] of x's dtype or f32. Columns are dense. Accumulates in
/// float32, in an order that depends on shapes only. With swiglu that of alpha x weightᵀ + bias takes the product's
/// place. False, and nothing is done, for other dtypes and extents, k no multiple of 8, an x or weight whose rows are
/// not aligned to 16 bytes, and where x does not fit in a block's shared memory.
bool gemv(const Tensor& x, const Tensor& weight, const Tensor& y, float alpha = 1, float beta = 0,
          const GemvOptions& options = {});

}  // namespace wick::cuda
