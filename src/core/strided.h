#pragma once

#include <cstdint>
#include <type_traits>

#include "core/parallel.h"
#include "wick/tensor.h"

namespace wick {

/// Any element type to any other, through float (double where one of them is f64 or an integer).
template <class To, class From>
To convert(From value) {
  if constexpr (std::is_same_v<To, From>) {
    return value;
  } else if constexpr (std::is_arithmetic_v<From>) {
    if constexpr (std::is_arithmetic_v<To>) {
      return static_cast<To>(value);
    } else {
      return To(static_cast<float>(value));
    }
  } else {
    return convert<To>(static_cast<float>(value));
  }
}

namespace detail {

template <int N>
struct StridedLoop {
  std::int64_t rows = 1;
  std::int64_t columns = 1;
  Shape outer;
  Strides outer_strides[N];
  std::int64_t inner[N]{};

  explicit StridedLoop(const Tensor* const (&tensors)[N]) {
    const Shape& shape = tensors[0]->shape();
    bool dense = true;
    for (const Tensor* t : tensors) dense = dense && t->is_contiguous();
    if (dense || shape.rank() == 0) {
      columns = tensors[0]->numel();
      for (std::int64_t& step : inner) step = 1;
      return;
    }
    columns = shape[-1];
    for (int n = 0; n < N; ++n) inner[n] = tensors[n]->stride(-1);
    for (int i = 0; i + 1 < shape.rank(); ++i) {
      outer.push_back(shape[i]);
      rows *= shape[i];
      for (int n = 0; n < N; ++n) outer_strides[n].push_back(tensors[n]->stride(i));
    }
  }

  void offsets(std::int64_t row, std::int64_t (&result)[N]) const {
    for (std::int64_t& offset : result) offset = 0;
    for (int i = outer.rank() - 1; i >= 0; --i) {
      const std::int64_t at = row % outer[i];
      row /= outer[i];
      for (int n = 0; n < N; ++n) result[n] += at * outer_strides[n][i];
    }
  }
};

}  // namespace detail

/// body(a, b) for every element of two tensors of one shape and any strides; dense tensors are one long row, and rows
/// are spread over threads.
template <class A, class B, class Body>
void for_each_strided(const Tensor& a, const Tensor& b, const Body& body) {
  if (a.numel() == 0) return;
  A* pa = a.data<std::remove_const_t<A>>();
  B* pb = b.data<std::remove_const_t<B>>();
  const Tensor* const all[2] = {&a, &b};
  const detail::StridedLoop<2> loop(all);
  const auto run = [&](A* x, B* y, std::int64_t count) {
    if (loop.inner[0] == 1 && loop.inner[1] == 1) {
      for (std::int64_t i = 0; i < count; ++i) body(x[i], y[i]);
    } else {
      for (std::int64_t i = 0; i < count; ++i) body(x[i * loop.inner[0]], y[i * loop.inner[1]]);
    }
  };
  if (loop.rows == 1) {
    parallel_for(loop.columns, 32768, [&](std::int64_t begin, std::int64_t end) {
      run(pa + begin * loop.inner[0], pb + begin * loop.inner[1], end - begin);
    });
    return;
  }
  parallel_for(loop.rows, rows_per_piece(loop.columns), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      std::int64_t at[2];
      loop.offsets(row, at);
      run(pa + at[0], pb + at[1], loop.columns);
    }
  });
}

template <class A, class B, class C, class Body>
void for_each_strided(const Tensor& a, const Tensor& b, const Tensor& c, const Body& body) {
  if (a.numel() == 0) return;
  A* pa = a.data<std::remove_const_t<A>>();
  B* pb = b.data<std::remove_const_t<B>>();
  C* pc = c.data<std::remove_const_t<C>>();
  const Tensor* const all[3] = {&a, &b, &c};
  const detail::StridedLoop<3> loop(all);
  const auto run = [&](A* x, B* y, C* z, std::int64_t count) {
    if (loop.inner[0] == 1 && loop.inner[1] == 1 && loop.inner[2] == 1) {
      for (std::int64_t i = 0; i < count; ++i) body(x[i], y[i], z[i]);
    } else {
      for (std::int64_t i = 0; i < count; ++i) {
        body(x[i * loop.inner[0]], y[i * loop.inner[1]], z[i * loop.inner[2]]);
      }
    }
  };
  if (loop.rows == 1) {
    parallel_for(loop.columns, 32768, [&](std::int64_t begin, std::int64_t end) {
      run(pa + begin * loop.inner[0], pb + begin * loop.inner[1], pc + begin * loop.inner[2], end - begin);
    });
    return;
  }
  parallel_for(loop.rows, rows_per_piece(loop.columns), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      std::int64_t at[3];
      loop.offsets(row, at);
      run(pa + at[0], pb + at[1], pc + at[2], loop.columns);
    }
  });
}

}  // namespace wick
