#include "ops/rms_norm/rms_norm.h"
#include "ops/op.h"

namespace wick {

Kernels<RmsNormForward> rms_norm_forward{{rms_norm_forward_cpu}};
Kernels<RmsNormBackward> rms_norm_backward{{rms_norm_backward_cpu}};

namespace {

Tensor composite(const Tensor& x, const Tensor& weight, double eps) {
  const DType sums = x.dtype() == DType::f64 ? DType::f64 : DType::f32;
  const Tensor wide = cast(x, sums);
  const Tensor variance = mean(mul(wide, wide), -1, true);
  const Tensor normalised = div(wide, sqrt(add(variance, eps)));
  return cast(mul(normalised, cast(weight, sums)), x.dtype());
}

std::vector<Tensor> composite_with_residual(const Tensor& x, const Tensor& residual, const Tensor& weight, double eps) {
  const Tensor total = add(x, residual);
  return {total, composite(total, weight, eps)};
}

void check(const char* op, const Tensor& x, const Tensor& weight, double eps, std::int64_t border) {
  check_floating(op, "x", x);
  check_row_vector(op, x, "weight", weight);
  if (!(eps >= 0)) fail(ErrorCode::invalid_argument, "[{}] eps is {}, expected 0 or more", op, eps);
  if (border < 0) fail(ErrorCode::invalid_argument, "[{}] border is {}, expected 0 or more", op, border);
}

// The gradient of both forms: dsum is undefined in the plain one.
std::vector<Tensor> gradient(const char* op, const Tensor& x, const Tensor& weight, const Tensor& rstd, double eps,
                             const Tensor& dsum, const Tensor& dy, const GradPlace& place, bool needs_x,
                             bool needs_weight) {
  if (!dy.defined()) return {dsum, Tensor()};
  const bool heads = !dsum.defined();
  const OutputRows dx(place.empty(), heads ? OutputRows::Form::matrix_or_heads : OutputRows::Form::matrix);
  Tensor dweight = needs_weight ? Tensor::empty(weight.shape(), DType::f32, x.device()) : Tensor();
  if (run_kernel(op, rms_norm_backward, x.device(), as_rows(dy), dsum.defined() ? as_rows(dsum) : Tensor(),
                 heads ? as_rows_or_heads(x) : as_rows(x), weight, rstd, dx.rows(), dweight)) {
    return {dx.finished(), needs_weight ? dweight.to(weight.dtype()) : Tensor()};
  }
  const Tensor inputs[] = {x, weight};
  const Tensor grads_out[] = {dy};
  std::vector<Tensor> grads = composite_gradients(
      [eps](std::span<const Tensor> in) { return std::vector<Tensor>{composite(in[0], in[1], eps)}; }, inputs,
      grads_out, {needs_x, needs_weight});
  if (dsum.defined() && needs_x) grads[0] = add(grads[0], dsum);
  return grads;
}

}  // namespace

Tensor rms_norm(const Tensor& x, const Tensor& weight, double eps, std::int64_t border) {
  check("rms_norm", x, weight, eps, border);
  Tensor y = Tensor::bordered(x.shape(), border, x.dtype(), x.device());
  const Tensor rstd = Tensor::empty({row_count(x)}, DType::f32, x.device());
  if (!run_kernel("rms_norm", rms_norm_forward, x.device(), as_rows_or_heads(x.detach()), Tensor(), weight,
                  static_cast<float>(eps), Tensor(), as_rows(y), rstd)) {
    return composite(x, weight, eps);
  }
  record("rms_norm", {x, weight}, {&y},
         [x = x.detach(), weight = weight.detach(), rstd, eps, place = GradPlace(x)](std::span<const Tensor> dy,
                                                                                     const std::vector<bool>& needs) {
           return gradient("rms_norm", x, weight, rstd, eps, Tensor(), dy[0], place, needs[0], needs[1]);
         });
  return y;
}

std::pair<Tensor, Tensor> rms_norm_residual(const Tensor& x, const Tensor& residual, const Tensor& weight, double eps,
                                            std::int64_t border) {
  constexpr const char* kOp = "rms_norm_residual";
  check(kOp, x, weight, eps, border);
  check_same_shape(kOp, "x", x, "residual", residual);
  check_same_dtype(kOp, x, "residual", residual);
  check_same_device(kOp, x, "residual", residual);
  Tensor total = Tensor::empty(x.shape(), x.dtype(), x.device());
  Tensor y = Tensor::bordered(x.shape(), border, x.dtype(), x.device());
  const Tensor rows = as_rows(x.detach());
  const Tensor rstd = Tensor::empty({rows.size(0)}, DType::f32, x.device());
  if (!run_kernel(kOp, rms_norm_forward, x.device(), rows, as_rows(residual.detach()), weight, static_cast<float>(eps),
                  as_rows(total), as_rows(y), rstd)) {
    const std::vector<Tensor> both = composite_with_residual(x, residual, weight, eps);
    return {both[0], both[1]};
  }
  record(kOp, {x, residual, weight}, {&total, &y},
         [total = total.detach(), weight = weight.detach(), rstd, eps, place = GradPlace(x)](
             std::span<const Tensor> grads, const std::vector<bool>& needs) {
           const std::vector<Tensor> both = gradient("rms_norm_residual", total, weight, rstd, eps, grads[0], grads[1],
                                                     place, needs[0] || needs[1], needs[2]);
           return std::vector<Tensor>{both[0], both[0], both[1]};
         });
  return {total, y};
}

}  // namespace wick
