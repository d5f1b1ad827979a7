#include "ops/l2_normalize/l2_normalize.h"
#include "ops/op.h"

namespace wick {

Kernels<L2NormalizeForward> l2_normalize_forward{{l2_normalize_forward_cpu}};
Kernels<L2NormalizeBackward> l2_normalize_backward{{l2_normalize_backward_cpu}};

namespace {

// 1 where the sum of squares is that of a row which is long enough. A device is waited for here.
Tensor long_enough(const Tensor& squares) {
  const std::vector<double> values = squares.detach().to(DType::f64).to_vector<double>();
  std::vector<std::int32_t> mask;
  for (const double value : values) mask.push_back(value > kSmallestLength * kSmallestLength ? 1 : 0);
  return Tensor::from(mask, squares.shape()).to(squares.device());
}

Tensor composite(const Tensor& x) {
  const Tensor wide = cast(x, x.dtype() == DType::f64 ? DType::f64 : DType::f32);
  const Tensor squares = sum(mul(wide, wide), -1, true);
  const Tensor mask = long_enough(squares);
  // The root of what is masked is of 1: its slope at 0 would be infinite, and infinity times 0 no number.
  const Tensor length = where(mask, sqrt(where(mask, squares, 1.0)), kSmallestLength);
  return cast(div(wide, length), x.dtype());
}

Tensor gradient(const Tensor& x, const Tensor& lengths, const Tensor& dy) {
  const Tensor dx = Tensor::empty(x.shape(), x.dtype(), x.device());
  if (run_kernel("l2_normalize", l2_normalize_backward, x.device(), as_rows(dy), as_rows(x), lengths, as_rows(dx))) {
    return dx;
  }
  return composite_gradients([](std::span<const Tensor> in) { return std::vector{composite(in[0])}; }, std::span(&x, 1),
                             std::span(&dy, 1), {true})[0];
}

}  // namespace

Tensor l2_normalize(const Tensor& x) {
  check_floating("l2_normalize", "x", x);
  if (x.rank() < 1) fail(ErrorCode::invalid_argument, "[l2_normalize] x has no dimensions");
  Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device());
  const Tensor rows = as_rows(x.detach());
  const Tensor lengths = Tensor::empty({rows.size(0)}, DType::f32, x.device());
  if (!run_kernel("l2_normalize", l2_normalize_forward, x.device(), rows, as_rows(y), lengths)) return composite(x);
  record("l2_normalize", {x}, {&y}, [x = x.detach(), lengths](std::span<const Tensor> dy, const std::vector<bool>&) {
    return std::vector<Tensor>{gradient(x, lengths, dy[0])};
  });
  return y;
}

}  // namespace wick
