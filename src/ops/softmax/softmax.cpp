#include "ops/softmax/softmax.h"
#include "ops/op.h"

namespace wick {

Kernels<SoftmaxForward> softmax_forward{{softmax_forward_cpu}};
Kernels<SoftmaxBackward> softmax_backward{{softmax_backward_cpu}};

namespace {

Tensor composite(const Tensor& x) {
  if (x.numel() == 0) return mul(x, 1.0);  // a row without columns has no maximum
  const Tensor wide = cast(x, x.dtype() == DType::f64 ? DType::f64 : DType::f32);
  const Tensor e = exp(sub(wide, max(wide, -1, true)));
  return cast(div(e, sum(e, -1, true)), x.dtype());
}

// The composite form works from y too, so that x need not be kept.
Tensor gradient(const Tensor& y, const Tensor& dy) {
  const Tensor dx = Tensor::empty(y.shape(), y.dtype(), y.device());
  if (run_kernel("softmax", softmax_backward, y.device(), as_rows(dy), as_rows(y), as_rows(dx))) return dx;
  const DType sums = y.dtype() == DType::f64 ? DType::f64 : DType::f32;
  const Tensor wide = cast(y, sums);
  const Tensor g = cast(dy, sums);
  return cast(mul(wide, sub(g, sum(mul(g, wide), -1, true))), y.dtype());
}

}  // namespace

Tensor softmax(const Tensor& x) {
  check_floating("softmax", "x", x);
  if (x.rank() < 1) fail(ErrorCode::invalid_argument, "[softmax] x has no dimensions");
  Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device());
  if (!run_kernel("softmax", softmax_forward, x.device(), as_rows(x.detach()), as_rows(y))) return composite(x);
  record("softmax", {x}, {&y}, [y = y.detach()](std::span<const Tensor> dy, const std::vector<bool>&) {
    return std::vector<Tensor>{gradient(y, dy[0])};
  });
  return y;
}

}  // namespace wick
