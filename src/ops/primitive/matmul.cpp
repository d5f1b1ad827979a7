#include "backend/gemm.h"
#include "ops/op.h"
#include "ops/primitive/reduce_to.h"

namespace wick {
namespace {

// The matrix as gemm() takes it: itself, or a dense copy when neither stride is 1.
Tensor gemm_ready(const Tensor& t) {
  const auto fits = [](std::int64_t step, std::int64_t inner, std::int64_t extent, std::int64_t outer) {
    return (step == 1 || inner <= 1) && (outer <= 1 || extent >= inner);
  };
  const bool ready =
      fits(t.stride(1), t.size(1), t.stride(0), t.size(0)) || fits(t.stride(0), t.size(0), t.stride(1), t.size(1));
  return ready ? t : t.clone();
}

Tensor matmul_values(const Tensor& a, const Tensor& b) {
  Shape batch_a = a.shape();
  Shape batch_b = b.shape();
  for (int i = 0; i < 2; ++i) {
    batch_a.erase(-1);
    batch_b.erase(-1);
  }
  const Shape batch = broadcast(batch_a, batch_b);
  const auto with = [&](std::int64_t rows, std::int64_t columns) {
    Shape shape = batch;
    shape.push_back(rows);
    shape.push_back(columns);
    return shape;
  };
  const std::int64_t m = a.size(-2);
  const std::int64_t k = a.size(-1);
  const std::int64_t n = b.size(-1);
  Tensor y = Tensor::empty(with(m, n), a.dtype(), a.device());
  if (batch.rank() == 0) {
    gemm(gemm_ready(a), gemm_ready(b), y);
    return y;
  }
  Tensor wide_a = a.expand(with(m, k));
  Tensor wide_b = b.expand(with(k, n));
  const std::int64_t count = numel(batch);
  for (std::int64_t i = 0; i < count; ++i) {
    Tensor at[3] = {wide_a, wide_b, y};
    std::int64_t below = count;
    std::int64_t rest = i;
    for (int d = 0; d < batch.rank(); ++d) {
      below /= batch[d];
      for (Tensor& t : at) t = t.select(0, rest / below);
      rest %= below;
    }
    gemm(gemm_ready(at[0]), gemm_ready(at[1]), at[2]);
  }
  return y;
}

}  // namespace

Tensor matmul(const Tensor& a, const Tensor& b) {
  check_floating("matmul", "a", a);
  check_same_dtype("matmul", a, "b", b);
  check_same_device("matmul", a, "b", b);
  if (a.rank() < 2 || b.rank() < 2 || a.size(-1) != b.size(-2)) {
    fail(ErrorCode::invalid_argument, "[matmul] shapes {} and {} do not fit", to_string(a.shape()),
         to_string(b.shape()));
  }
  Tensor y = matmul_values(a.detach(), b.detach());
  record("matmul", {a, b}, {&y},
         [a = a.detach(), b = b.detach()](std::span<const Tensor> dy, const std::vector<bool>& needs) {
           std::vector<Tensor> grads(2);
           if (needs[0]) grads[0] = reduce_to(matmul_values(dy[0], b.transpose(-1, -2)), a.shape());
           if (needs[1]) grads[1] = reduce_to(matmul_values(a.transpose(-1, -2), dy[0]), b.shape());
           return grads;
         });
  return y;
}

}  // namespace wick
