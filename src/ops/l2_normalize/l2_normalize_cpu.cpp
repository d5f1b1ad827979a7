#include "ops/l2_normalize/l2_normalize.h"

#include <algorithm>
#include <cmath>

#include "core/dispatch.h"
#include "core/parallel.h"

namespace wick {
namespace {

template <class T>
void forward_row(const T* x, std::int64_t n, T* y, float& stored) {
  double squares = 0;
  for (std::int64_t i = 0; i < n; ++i)
    squares += static_cast<double>(static_cast<float>(x[i])) * static_cast<float>(x[i]);
  const double length = std::max(std::sqrt(squares), kSmallestLength);
  for (std::int64_t i = 0; i < n; ++i) y[i] = T(static_cast<float>(static_cast<float>(x[i]) / length));
  stored = static_cast<float>(length);
}

template <class T>
void backward_row(const T* dy, const T* x, std::int64_t n, float length, T* dx) {
  double dot = 0;  // of dy and x, over the squared length
  if (length > static_cast<float>(kSmallestLength)) {
    for (std::int64_t i = 0; i < n; ++i) {
      dot += static_cast<double>(static_cast<float>(dy[i])) * static_cast<float>(x[i]);
    }
    dot /= static_cast<double>(length) * length;
  }
  for (std::int64_t i = 0; i < n; ++i) {
    dx[i] = T(static_cast<float>((static_cast<float>(dy[i]) - static_cast<float>(x[i]) * dot) / length));
  }
}

}  // namespace

Declined l2_normalize_forward_cpu(const Tensor& x, const Tensor& y, const Tensor& lengths) {
  if (x.dtype() == DType::f64) return "f64";
  const std::int64_t n = x.size(1);
  visit_narrow(x.dtype(), [&](auto tag) {
    using T = decltype(tag);
    parallel_for(x.size(0), rows_per_piece(n), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) {
        forward_row(x.data<T>() + row * x.stride(0), n, y.data<T>() + row * y.stride(0), lengths.data<float>()[row]);
      }
    });
  });
  return nullptr;
}

Declined l2_normalize_backward_cpu(const Tensor& dy, const Tensor& x, const Tensor& lengths, const Tensor& dx) {
  if (x.dtype() == DType::f64) return "f64";
  const std::int64_t n = x.size(1);
  visit_narrow(x.dtype(), [&](auto tag) {
    using T = decltype(tag);
    parallel_for(x.size(0), rows_per_piece(n), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) {
        backward_row(dy.data<T>() + row * dy.stride(0), x.data<T>() + row * x.stride(0), n, lengths.data<float>()[row],
                     dx.data<T>() + row * dx.stride(0));
      }
    });
  });
  return nullptr;
}

}  // namespace wick
