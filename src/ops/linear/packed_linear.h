#pragma once

#include <optional>

#include "backend/cpu/packed_weight.h"
#include "wick/ops.h"

namespace wick {

/// gelu(x weightᵀ + bias), or without the GELU, rounded once, for inference: never recorded on a tape. x [tokens, k] of
/// the weight's dtype on the CPU, bias [n] of it or undefined -> [tokens, n]. Each row's bytes depend on that row
/// alone. Error(invalid_argument) for what does not fit.
Tensor packed_linear(const Tensor& x, const PackedWeight& weight, const Tensor& bias,
                     std::optional<GeluKind> gelu = {});

}  // namespace wick
