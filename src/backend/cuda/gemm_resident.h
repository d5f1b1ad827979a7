#pragma once

#include <optional>

#include "wick/ops.h"

namespace wick::cuda {

/// c = a weightᵀ + bias, or the GELU of it, on Hopper: for products of many rows by a weight of short ones, which an
/// encoder of few columns is made of. Each block keeps a part of the weight in its shared memory and the rows of a
/// stream past it, so that what is computed with a result, and its way to memory, take place beside the next products.
/// A row's result does not depend on the other rows, nor on their number. a [m, k], weight [n, k], c [m, n], bias [n]
/// or undefined, all bf16 or all f16. False, and nothing is done, for what it is not made for.
bool gemm_resident(const Tensor& a, const Tensor& weight, const Tensor& c, const Tensor& bias,
                   std::optional<GeluKind> gelu = {});

}  // namespace wick::cuda
