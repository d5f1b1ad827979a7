#include "ops/gelu/gelu.h"
#include "ops/op.h"

#include <cmath>
#include <numbers>

namespace wick {

Kernels<GeluForward> gelu_forward{{gelu_forward_cpu}};
Kernels<GeluBackward> gelu_backward{{gelu_backward_cpu}};

namespace {

Tensor composite(const Tensor& x, GeluKind kind) {
  const Tensor wide = cast(x, x.dtype() == DType::f64 ? DType::f64 : DType::f32);
  Tensor bell;
  if (kind == GeluKind::exact) {
    bell = erf(mul(wide, std::numbers::sqrt2 / 2));
  } else {
    const Tensor cubic = mul(mul(wide, wide), mul(wide, 0.044715));
    bell = tanh(mul(add(wide, cubic), std::sqrt(2 / std::numbers::pi)));
  }
  return cast(mul(mul(wide, 0.5), add(bell, 1.0)), x.dtype());
}

Tensor gradient(const Tensor& x, GeluKind kind, const Tensor& dy) {
  const Tensor dx = Tensor::empty(x.shape(), x.dtype(), x.device());
  if (run_kernel("gelu", gelu_backward, x.device(), as_rows(dy), as_rows(x), kind, as_rows(dx))) return dx;
  return composite_gradients([kind](std::span<const Tensor> in) { return std::vector{composite(in[0], kind)}; },
                             std::span(&x, 1), std::span(&dy, 1), {true})[0];
}

}  // namespace

Tensor gelu(const Tensor& x, GeluKind kind) {
  check_floating("gelu", "x", x);
  Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device());
  if (!run_kernel("gelu", gelu_forward, x.device(), as_rows(x.detach()), kind, as_rows(y))) return composite(x, kind);
  record("gelu", {x}, {&y}, [x = x.detach(), kind](std::span<const Tensor> dy, const std::vector<bool>&) {
    return std::vector<Tensor>{gradient(x, kind, dy[0])};
  });
  return y;
}

}  // namespace wick
