#pragma once

#include <cmath>
#include <type_traits>
#include <utility>

#ifdef __CUDACC__
#define WICK_HOST_DEVICE __host__ __device__
#else
#define WICK_HOST_DEVICE
#endif

// The functions of the elementwise primitive ops, once for every device.
namespace wick {

enum class Unary {
  add,  // p + value
  mul,  // p * value
  exp,
  log,
  reciprocal,  // of log
  sqrt,
  sqrt_slope,  // 1 / (2 p), p = sqrt(x)
  tanh,
  tanh_slope,  // 1 - p², p = tanh(x)
  erf,
  erf_slope,  // 2 / sqrt(pi) exp(-x²)
  sigmoid,
  sigmoid_slope,  // p (1 - p), p = sigmoid(x)
};
enum class Binary { add, sub, mul, div };
enum class Reduction { sum, max };

template <Unary op, class T>
WICK_HOST_DEVICE T apply(T p, [[maybe_unused]] T value) {
  if constexpr (op == Unary::add) return p + value;
  if constexpr (op == Unary::mul) return p * value;
  if constexpr (op == Unary::exp) return std::exp(p);
  if constexpr (op == Unary::log) return std::log(p);
  if constexpr (op == Unary::reciprocal) return 1 / p;
  if constexpr (op == Unary::sqrt) return std::sqrt(p);
  if constexpr (op == Unary::sqrt_slope) return T(0.5) / p;
  if constexpr (op == Unary::tanh) return std::tanh(p);
  if constexpr (op == Unary::tanh_slope) return 1 - p * p;
  if constexpr (op == Unary::erf) return std::erf(p);
  if constexpr (op == Unary::erf_slope) return T(1.1283791670955125739) * std::exp(-p * p);
  if constexpr (op == Unary::sigmoid) return 1 / (1 + std::exp(-p));
  if constexpr (op == Unary::sigmoid_slope) return p * (1 - p);
}

template <Binary op, class T>
WICK_HOST_DEVICE T apply(T p, T q) {
  if constexpr (op == Binary::add) return p + q;
  if constexpr (op == Binary::sub) return p - q;
  if constexpr (op == Binary::mul) return p * q;
  if constexpr (op == Binary::div) return p / q;
}

/// Calls fn(std::integral_constant<Unary, op>{}).
template <class Fn>
void visit(Unary op, Fn&& fn) {
  switch (op) {
#define WICK_CASE(name) \
  case Unary::name:     \
    return std::forward<Fn>(fn)(std::integral_constant<Unary, Unary::name>{});
    WICK_CASE(add)
    WICK_CASE(mul)
    WICK_CASE(exp)
    WICK_CASE(log)
    WICK_CASE(reciprocal)
    WICK_CASE(sqrt)
    WICK_CASE(sqrt_slope)
    WICK_CASE(tanh)
    WICK_CASE(tanh_slope)
    WICK_CASE(erf)
    WICK_CASE(erf_slope)
    WICK_CASE(sigmoid)
    WICK_CASE(sigmoid_slope)
#undef WICK_CASE
  }
}

template <class Fn>
void visit(Binary op, Fn&& fn) {
  switch (op) {
#define WICK_CASE(name) \
  case Binary::name:    \
    return std::forward<Fn>(fn)(std::integral_constant<Binary, Binary::name>{});
    WICK_CASE(add)
    WICK_CASE(sub)
    WICK_CASE(mul)
    WICK_CASE(div)
#undef WICK_CASE
  }
}

}  // namespace wick
