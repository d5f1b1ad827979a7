#include "ops/swiglu/swiglu.h"
#include "ops/op.h"

namespace wick {

Kernels<SwigluForward> swiglu_forward{{swiglu_forward_cpu}};
Kernels<SwigluBackward> swiglu_backward{{swiglu_backward_cpu}};

namespace {

Tensor composite(const Tensor& gate, const Tensor& up) {
  const DType wide = gate.dtype() == DType::f64 ? DType::f64 : DType::f32;
  const Tensor z = cast(gate, wide);
  return cast(mul(mul(z, sigmoid(z)), cast(up, wide)), gate.dtype());
}

// The gradients of two slices of one buffer lie side by side in one buffer too, which split() hands on without a copy.
std::pair<Tensor, Tensor> empty_gradients(const Tensor& gate, const Tensor& up, bool needs_gate, bool needs_up) {
  if (needs_gate && needs_up && gate.storage() == up.storage()) {
    Shape both = gate.shape();
    both[-1] *= 2;
    const Tensor buffer = Tensor::empty(both, gate.dtype(), gate.device());
    const std::int64_t n = gate.size(-1);
    const std::int64_t first = gate.raw() < up.raw() ? 0 : n;
    return {buffer.slice(-1, first, n), buffer.slice(-1, n - first, n)};
  }
  const auto empty = [&](bool needed) {
    return needed ? Tensor::empty(gate.shape(), gate.dtype(), gate.device()) : Tensor();
  };
  return {empty(needs_gate), empty(needs_up)};
}

std::vector<Tensor> gradient(const Tensor& gate, const Tensor& up, const Tensor& dy, const std::vector<bool>& needs) {
  const auto [dgate, dup] = empty_gradients(gate, up, needs[0], needs[1]);
  const auto rows = [](const Tensor& t) { return t.defined() ? as_rows(t) : t; };
  if (run_kernel("swiglu", swiglu_backward, gate.device(), as_rows(dy), as_rows(gate), as_rows(up), rows(dgate),
                 rows(dup))) {
    return {dgate, dup};
  }
  const Tensor inputs[] = {gate, up};
  return composite_gradients([](std::span<const Tensor> in) { return std::vector{composite(in[0], in[1])}; }, inputs,
                             std::span(&dy, 1), needs);
}

}  // namespace

Tensor swiglu(const Tensor& gate, const Tensor& up, std::int64_t border) {
  check_floating("swiglu", "gate", gate);
  check_same_dtype("swiglu", gate, "up", up);
  check_same_shape("swiglu", "gate", gate, "up", up);
  check_same_device("swiglu", gate, "up", up);
  if (gate.rank() < 1) fail(ErrorCode::invalid_argument, "[swiglu] gate has no dimensions");
  if (border < 0) fail(ErrorCode::invalid_argument, "[swiglu] border is {}, expected 0 or more", border);
  Tensor y = Tensor::bordered(gate.shape(), border, gate.dtype(), gate.device());
  if (!run_kernel("swiglu", swiglu_forward, gate.device(), as_rows(gate.detach()), as_rows(up.detach()), as_rows(y))) {
    return composite(gate, up);
  }
  record("swiglu", {gate, up}, {&y},
         [gate = gate.detach(), up = up.detach()](std::span<const Tensor> dy, const std::vector<bool>& needs) {
           return gradient(gate, up, dy[0], needs);
         });
  return y;
}

}  // namespace wick
