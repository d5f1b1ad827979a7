#include "ops/layer_norm/layer_norm.h"
#include "ops/op.h"

namespace wick {

Kernels<LayerNormForward> layer_norm_forward{{layer_norm_forward_cpu}};
Kernels<LayerNormBackward> layer_norm_backward{{layer_norm_backward_cpu}};
Kernels<EmbeddingNormForward> embedding_norm_forward;

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

void check(const char* op, const Tensor& x, const Tensor& weight, const Tensor& bias, double eps) {
  check_floating(op, "x", x);
  check_row_vector(op, x, "weight", weight);
  if (bias.defined()) check_row_vector(op, x, "bias", bias);
  if (!(eps >= 0)) fail(ErrorCode::invalid_argument, "[{}] eps is {}, expected 0 or more", op, eps);
}

}  // namespace

Tensor layer_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, double eps) {
  check("layer_norm", x, weight, bias, eps);
  Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device());
  const Tensor rows = as_rows(x.detach());
  const Tensor stats = Tensor::empty({2, rows.size(0)}, DType::f32, x.device());
  if (!run_kernel("layer_norm", layer_norm_forward, x.device(), rows, Tensor(), weight, bias, static_cast<float>(eps),
                  Tensor(), as_rows(y), stats)) {
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

Tensor layer_norm_residual(const Tensor& x, const Tensor& residual, const Tensor& weight, const Tensor& bias,
                           double eps) {
  constexpr const char* kOp = "layer_norm_residual";
  check(kOp, x, weight, bias, eps);
  check_same_shape(kOp, "x", x, "residual", residual);
  check_same_dtype(kOp, x, "residual", residual);
  check_same_device(kOp, x, "residual", residual);
  std::vector<Tensor> inputs = {x, residual, weight};
  if (bias.defined()) inputs.push_back(bias);
  const bool saves = recording(inputs);
  Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device());
  const Tensor rows = as_rows(x.detach());
  const Tensor total = saves ? Tensor::empty(x.shape(), x.dtype(), x.device()) : Tensor();
  const Tensor stats = saves ? Tensor::empty({2, rows.size(0)}, DType::f32, x.device()) : Tensor();
  if (!run_kernel(kOp, layer_norm_forward, x.device(), rows, as_rows(residual.detach()), weight, bias,
                  static_cast<float>(eps), saves ? as_rows(total) : Tensor(), as_rows(y), stats)) {
    return composite(add(x, residual), weight, bias, eps);
  }
  if (!saves) return y;
  Tensor* outputs[] = {&y};
  record(kOp, inputs, outputs,
         [total, weight = weight.detach(), bias = bias.detach(), stats, eps](std::span<const Tensor> dy,
                                                                             const std::vector<bool>& needs) {
           std::vector<bool> of_norm = {needs[0] || needs[1], needs[2]};
           if (bias.defined()) of_norm.push_back(needs[3]);
           std::vector<Tensor> grads = gradient(total, weight, bias, stats, eps, dy[0], of_norm);
           grads.insert(grads.begin(), grads[0]);
           return grads;
         });
  return y;
}

Tensor embedding_norm(const Tensor& words, const Tensor& ids, const Tensor& positions, const Tensor& places,
                      const Tensor& weight, const Tensor& bias, double eps) {
  constexpr const char* kOp = "embedding_norm";
  check(kOp, words, weight, bias, eps);
  for (const Tensor* table : {&words, &positions}) {
    if (table->rank() != 2 || table->size(1) != words.size(-1)) {
      fail(ErrorCode::invalid_argument, "[{}] words is {}, positions is {}, expected matrices with as many columns",
           kOp, describe(words), describe(positions));
    }
  }
  check_same_dtype(kOp, words, "positions", positions);
  check_same_device(kOp, words, "positions", positions);
  const Tensor of_words = checked_indices(kOp, "ids", ids, words.size(0));
  const Tensor of_positions = checked_indices(kOp, "places", places, positions.size(0));
  check_same_shape(kOp, "ids", of_words, "places", of_positions);
  EmbeddingNormForward* const kernel = embedding_norm_forward.on(words.device().type);
  if (kernel != nullptr && !recording({words, positions, weight, bias})) {
    const Tensor y = Tensor::empty({of_words.size(0), words.size(1)}, words.dtype(), words.device());
    if (run_kernel(kOp, embedding_norm_forward, words.device(), words, of_words, positions, of_positions, weight, bias,
                   static_cast<float>(eps), y)) {
      return y;
    }
  }
  return layer_norm(add(embedding(words, of_words), embedding(positions, of_positions)), weight, bias, eps);
}

}  // namespace wick
