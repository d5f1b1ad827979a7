#pragma once

#include "wick/model.h"

namespace wick {

/// cos and sin of position * inverse frequency for positions [0, positions): f32 (f64 when dtype is) [positions,
/// head_dim / 2].
struct RopeTable {
  Tensor cos;
  Tensor sin;
};
RopeTable make_rope_table(const RopeConfig& rope, std::int64_t head_dim, std::int64_t positions, DType dtype,
                          Device device);

}  // namespace wick
