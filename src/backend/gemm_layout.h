#pragma once

#include <algorithm>
#include <cstdint>

#include "core/fail.h"
#include "wick/tensor.h"

namespace wick {

/// A matrix as GEMM libraries take it: one stride is 1, the other at least the extent it steps over.
struct GemmLayout {
  bool transposed = false;  ///< the rows are dense rather than the columns
  std::int64_t leading = 1;
};

/// Error(invalid_argument) naming `what` when t is none.
inline GemmLayout gemm_layout(const Tensor& t, const char* what) {
  const std::int64_t rows = t.size(0);
  const std::int64_t columns = t.size(1);
  if ((t.stride(1) == 1 || columns <= 1) && (t.stride(0) >= columns || rows <= 1)) {
    return {false, rows <= 1 ? std::max<std::int64_t>(columns, 1) : t.stride(0)};
  }
  if ((t.stride(0) == 1 || rows <= 1) && (t.stride(1) >= rows || columns <= 1)) {
    return {true, columns <= 1 ? std::max<std::int64_t>(rows, 1) : t.stride(1)};
  }
  fail(ErrorCode::invalid_argument, "[gemm] {} of shape {} has strides {}: one of them must be 1", what,
       to_string(t.shape()), to_string(t.strides()));
}

}  // namespace wick
