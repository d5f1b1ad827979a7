#pragma once

#include <algorithm>
#include <cstdint>

#include "core/fail.h"
#include "core/work.h"
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

/// The product c = a b, plus c where beta is not 0, as work for the profile.
inline Work gemm_work(const Tensor& a, const Tensor& b, const Tensor& c, double beta) {
  const auto bytes = [](const Tensor& t) {
    return static_cast<double>(t.numel()) * static_cast<double>(size_of(t.dtype()));
  };
  return {.name = "gemm",
          .bytes = bytes(a) + bytes(b) + bytes(c) * (beta != 0 ? 2 : 1),
          .flops = 2.0 * static_cast<double>(c.numel()) * static_cast<double>(a.size(1)),
          .m = a.size(0),
          .n = b.size(1),
          .k = a.size(1)};
}

}  // namespace wick
