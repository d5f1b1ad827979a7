#include "ops/swiglu/swiglu.h"

#include <memory>

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

// `dup`: where that goes; undefined: nobody has asked yet. dy may lie there.
std::vector<Tensor> gradient(const Tensor& gate, const Tensor& up, const Tensor& dy, const GradPlace& gate_place,
                             const GradPlace& up_place, Tensor dup, const std::vector<bool>& needs) {
  const Tensor dgate = needs[0] ? gate_place.empty() : Tensor();
  if (!needs[1]) dup = {};
  if (needs[1] && !dup.defined()) dup = up_place.empty();
  const OutputRows gate_rows(dgate);
  const OutputRows up_rows(dup);
  if (run_kernel("swiglu", swiglu_backward, gate.device(), as_rows(dy), as_rows(gate), as_rows(up), gate_rows.rows(),
                 up_rows.rows())) {
    return {gate_rows.finished(), up_rows.finished()};
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
  const auto lent = std::make_shared<Tensor>();
  record("swiglu", {gate, up}, {&y},
         [gate = gate.detach(), up = up.detach(), gate_place = GradPlace(gate), up_place = GradPlace(up), lent](
             std::span<const Tensor> dy, const std::vector<bool>& needs) {
           return gradient(gate, up, dy[0], gate_place, up_place, *lent, needs);
         });
  // dy needs no memory of its own: element by element, dup takes its place.
  if (up.needs_grad()) place_gradient(y, [lent, place = GradPlace(up)] { return *lent = place.empty(); });
  return y;
}

}  // namespace wick
