#include "ops/layer_norm/layer_norm.h"
#include "ops/op.h"

namespace wick {

Kernels<LayerNormForward> layer_norm_forward{{layer_norm_forward_cpu}};
Kernels<LayerNormBackward> layer_norm_backward{{layer_norm_backward_cpu}};

namespace {

Tensor composite(const Tensor& x, const Tensor& weight, const Tensor& bias, double eps) {
  const DType sums = x.dtype() == DType::f64 ? DType::f64 : DType::f32;
  const Tensor wide = cast(x, sums);
  const Tensor centred = sub(wide, mean(wide, -1, true));
  const Tensor variance = mean(mul(centred, centred), -1, true);
  Tensor y = mul(div(centred, sqrt(add(variance, eps))), cast(weight, sums));
  if (bias.defined()) y = add(y, cast(bias, sums));
  return cast(y, x.dtype());
}

std::vector<Tensor> gradient(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& stats, double eps,
                             const Tensor& dy, const std::vector<bool>& needs) {
  const Tensor dx = needs[0] ? Tensor::empty(x.shape(), x.dtype(), x.device()) : Tensor();
  const bool needs_bias = bias.defined() && needs[2];
  const Tensor dparams = needs[1] || needs_bias ? Tensor::empty({2, weight.size(0)}, DType::f32, x.device()) : Tensor();
  if (run_kernel("layer_norm", layer_norm_backward, x.device(), as_rows(dy), as_rows(x), weight, stats,
                 needs[0] ? as_rows(dx) : Tensor(), dparams)) {
    std::vector<Tensor> grads = {dx, needs[1] ? dparams.select(0, 0).to(weight.dtype()) : Tensor()};
    if (bias.defined()) grads.push_back(needs_bias ? dparams.select(0, 1).to(bias.dtype()) : Tensor());
    return grads;
  }
  std::vector<Tensor> inputs = {x, weight};
  if (bias.defined()) inputs.push_back(bias);
  return composite_gradients(
      [eps](std::span<const Tensor> in) {
        return std::vector{composite(in[0], in[1], in.size() > 2 ? in[2] : Tensor(), eps)};
      },
      inputs, std::span(&dy, 1), needs);
}

}  // namespace

Tensor layer_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, double eps) {
  check_floating("layer_norm", "x", x);
  check_row_vector("layer_norm", x, "weight", weight);
  if (bias.defined()) check_row_vector("layer_norm", x, "bias", bias);
  if (!(eps >= 0)) fail(ErrorCode::invalid_argument, "[layer_norm] eps is {}, expected 0 or more", eps);
  Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device());
  const Tensor rows = as_rows(x.detach());
  const Tensor stats = Tensor::empty({2, rows.size(0)}, DType::f32, x.device());
  if (!run_kernel("layer_norm", layer_norm_forward, x.device(), rows, weight, bias, static_cast<float>(eps), as_rows(y),
                  stats)) {
    return composite(x, weight, bias, eps);
  }
  std::vector<Tensor> inputs = {x, weight};
  if (bias.defined()) inputs.push_back(bias);
  Tensor* outputs[] = {&y};
  record("layer_norm", inputs, outputs,
         [x = x.detach(), weight = weight.detach(), bias = bias.detach(), stats, eps](std::span<const Tensor> dy,
                                                                                      const std::vector<bool>& needs) {
           return gradient(x, weight, bias, stats, eps, dy[0], needs);
         });
  return y;
}

}  // namespace wick
