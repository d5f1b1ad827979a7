#include "backend/backend.h"
#include "core/dispatch.h"
#include "core/strided.h"
#include "ops/op.h"

namespace wick {

Tensor gather_rows(const Tensor& x, const Tensor& indices) {
  check_floating("gather_rows", "x", x);
  if (x.rank() < 1) fail(ErrorCode::invalid_argument, "[gather_rows] x has no dimensions");
  const Tensor rows = checked_indices("gather_rows", "indices", indices, x.size(0));
  check_same_device("gather_rows", x, "indices", rows);
  Shape shape = x.shape();
  shape[0] = rows.size(0);
  Tensor y = Tensor::empty(shape, x.dtype(), x.device());
  if (Backend* device = accelerator(x)) {
    device->gather_rows(x, rows, y);
  } else {
    const std::int32_t* at = rows.data<std::int32_t>();
    for (std::int64_t i = 0; i < rows.size(0); ++i) y.select(0, i).copy_from(x.detach().select(0, at[i]));
  }
  record("gather_rows", {x}, {&y}, [shape = x.shape(), rows](std::span<const Tensor> dy, const std::vector<bool>&) {
    // Rows that are named twice add up: one pass in order, so the same bytes every run.
    const Tensor dx = Tensor::zeros(shape, dy[0].dtype(), dy[0].device());
    if (Backend* device = accelerator(dx)) {
      device->add_rows(dy[0], rows, dx);
      return std::vector<Tensor>{dx};
    }
    const std::int32_t* to = rows.data<std::int32_t>();
    visit_floating(dx.dtype(), [&](auto tag) {
      using T = decltype(tag);
      using S = Accumulator<T>;
      for (std::int64_t i = 0; i < rows.size(0); ++i) {
        for_each_strided<const T, T>(dy[0].select(0, i), dx.select(0, to[i]),
                                     [](const T& d, T& r) { r = convert<T>(convert<S>(r) + convert<S>(d)); });
      }
    });
    return std::vector<Tensor>{dx};
  });
  return y;
}

Tensor gather_columns(const Tensor& x, const Tensor& indices) {
  check_floating("gather_columns", "x", x);
  if (x.rank() != 2) fail(ErrorCode::invalid_argument, "[gather_columns] x must be a matrix, is {}", describe(x));
  const Tensor columns = checked_indices("gather_columns", "indices", indices, x.size(1));
  check_same_device("gather_columns", x, "indices", columns);
  if (columns.size(0) != x.size(0)) {
    fail(ErrorCode::invalid_argument, "[gather_columns] {} indices for {} rows", columns.size(0), x.size(0));
  }
  Tensor y = Tensor::empty({x.size(0)}, x.dtype(), x.device());
  if (Backend* device = accelerator(x)) {
    device->gather_columns(x, columns, y);
  } else {
    const std::int32_t* at = columns.data<std::int32_t>();
    visit_floating(x.dtype(), [&](auto tag) {
      using T = decltype(tag);
      for (std::int64_t i = 0; i < x.size(0); ++i) {
        y.data<T>()[i] = x.data<T>()[i * x.stride(0) + at[i] * x.stride(1)];
      }
    });
  }
  record("gather_columns", {x}, {&y},
         [shape = x.shape(), columns](std::span<const Tensor> dy, const std::vector<bool>&) {
           const Tensor dx = Tensor::zeros(shape, dy[0].dtype(), dy[0].device());
           if (Backend* device = accelerator(dx)) {
             device->scatter_columns(dy[0], columns, dx);
             return std::vector<Tensor>{dx};
           }
           const Tensor dense = dy[0].contiguous();
           const std::int32_t* to = columns.data<std::int32_t>();
           visit_floating(dx.dtype(), [&](auto tag) {
             using T = decltype(tag);
             for (std::int64_t i = 0; i < shape[0]; ++i) dx.data<T>()[i * shape[1] + to[i]] = dense.data<T>()[i];
           });
           return std::vector<Tensor>{dx};
         });
  return y;
}

}  // namespace wick
