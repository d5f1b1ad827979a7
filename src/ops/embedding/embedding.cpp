#include "ops/embedding/embedding.h"
#include "ops/op.h"

namespace wick {

Kernels<EmbeddingForward> embedding_forward{{embedding_forward_cpu}};
Kernels<EmbeddingBackward> embedding_backward{{embedding_backward_cpu}};

namespace {

// Rows that are named often add up in float32, whatever the table's type.
Tensor composite(const Tensor& table, const Tensor& ids) {
  if (!recording({table})) return gather_rows(table, ids);
  const DType sums = table.dtype() == DType::f64 ? DType::f64 : DType::f32;
  return cast(gather_rows(cast(table, sums), ids), table.dtype());
}

Tensor gradient(const Shape& shape, const Tensor& ids, const Tensor& dy) {
  const Tensor dtable = Tensor::zeros(shape, dy.dtype(), dy.device());
  if (run_kernel("embedding", embedding_backward, dy.device(), as_rows(dy), ids, dtable)) return dtable;
  // The gradient does not depend on the table's values.
  return composite_gradients([&ids](std::span<const Tensor> in) { return std::vector{composite(in[0], ids)}; },
                             std::span(&dtable, 1), std::span(&dy, 1), {true})[0];
}

}  // namespace

Tensor embedding(const Tensor& table, const Tensor& ids) {
  check_floating("embedding", "table", table);
  if (table.rank() != 2) {
    fail(ErrorCode::invalid_argument, "[embedding] table must be a matrix, is {}", describe(table));
  }
  const Tensor rows = checked_indices("embedding", "ids", ids, table.size(0));
  check_same_device("embedding", table, "ids", rows);
  Tensor y = Tensor::empty({rows.size(0), table.size(1)}, table.dtype(), table.device());
  if (!run_kernel("embedding", embedding_forward, table.device(), table, rows, y)) return composite(table, rows);
  record("embedding", {table}, {&y},
         [shape = table.shape(), rows](std::span<const Tensor> dy, const std::vector<bool>&) {
           return std::vector<Tensor>{gradient(shape, rows, dy[0])};
         });
  return y;
}

}  // namespace wick
