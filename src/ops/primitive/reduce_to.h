#pragma once

#include "wick/tensor.h"

namespace wick {

/// x summed over the dimensions along which `shape` was broadcast to x's: the gradient of a broadcast.
Tensor reduce_to(const Tensor& x, const Shape& shape);

}  // namespace wick
