#pragma once

#include <cstdint>
#include <type_traits>
#include <utility>

#include "core/fail.h"
#include "wick/dtype.h"

namespace wick {

/// Calls fn(T{}) with the C++ type of a floating dtype: visit_floating(x.dtype(), [&](auto tag) { using T =
/// decltype(tag); ... }).
template <class Fn>
decltype(auto) visit_floating(DType dtype, Fn&& fn) {
  switch (dtype) {
    case DType::f32:
      return std::forward<Fn>(fn)(float{});
    case DType::bf16:
      return std::forward<Fn>(fn)(bf16{});
    case DType::f16:
      return std::forward<Fn>(fn)(f16{});
    case DType::f64:
      return std::forward<Fn>(fn)(double{});
    default:
      fail(ErrorCode::invalid_argument, "expected a floating dtype, found {}", to_string(dtype));
  }
}

/// The same for what SIMD kernels compute on: f32, bf16 and f16.
template <class Fn>
decltype(auto) visit_narrow(DType dtype, Fn&& fn) {
  switch (dtype) {
    case DType::f32:
      return std::forward<Fn>(fn)(float{});
    case DType::bf16:
      return std::forward<Fn>(fn)(bf16{});
    case DType::f16:
      return std::forward<Fn>(fn)(f16{});
    default:
      fail(ErrorCode::invalid_argument, "expected f32, bf16 or f16, found {}", to_string(dtype));
  }
}

template <class Fn>
decltype(auto) visit_any(DType dtype, Fn&& fn) {
  switch (dtype) {
    case DType::i32:
      return std::forward<Fn>(fn)(std::int32_t{});
    case DType::i64:
      return std::forward<Fn>(fn)(std::int64_t{});
    default:
      return visit_floating(dtype, std::forward<Fn>(fn));
  }
}

/// What sums and statistics of T are held in: f64 for f64, f32 for every smaller type.
template <class T>
using Accumulator = std::conditional_t<std::is_same_v<T, double>, double, float>;

}  // namespace wick
