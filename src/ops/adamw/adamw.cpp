#include "ops/adamw/adamw.h"
#include "ops/op.h"

#include <cmath>
#include <limits>

namespace wick {

Kernels<AdamWStep> adamw_step_kernels{{adamw_step_cpu}};
Kernels<GradientNorm> gradient_norm_kernels{{gradient_norm_cpu}};
Kernels<ClippedAdamWStep> clipped_adamw_step_kernels{{clipped_adamw_step_cpu}};

namespace {

// 1 - beta^step of both moments.
struct Corrections {
  double first, second;
};
Corrections corrections(const AdamWOptions& options, std::int64_t step) {
  const auto exponent = static_cast<double>(step);
  return {1 - std::pow(options.beta1, exponent), 1 - std::pow(options.beta2, exponent)};
}

// Plain loops on the host; on a device copies of the buffers make the way there and back.
void composite(const Tensor& parameters, const Tensor& gradients, const Tensor& exp_avg, const Tensor& exp_avg_sq,
               const AdamWOptions& options, const Corrections& correction, double grad_scale) {
  if (parameters.device().type != DeviceType::cpu) {
    const Tensor host[] = {parameters.to(Device::cpu()), gradients.to(Device::cpu()), exp_avg.to(Device::cpu()),
                           exp_avg_sq.to(Device::cpu())};
    composite(host[0], host[1], host[2], host[3], options, correction, grad_scale);
    parameters.copy_from(host[0]);
    exp_avg.copy_from(host[2]);
    exp_avg_sq.copy_from(host[3]);
    return;
  }
  for (std::int64_t i = 0; i < parameters.numel(); ++i) {
    float& p = parameters.data<float>()[i];
    float& m = exp_avg.data<float>()[i];
    float& v = exp_avg_sq.data<float>()[i];
    const double g = gradients.data<float>()[i] * grad_scale;
    m = static_cast<float>(options.beta1 * m + (1 - options.beta1) * g);
    v = static_cast<float>(options.beta2 * v + (1 - options.beta2) * g * g);
    const double decayed = p * (1 - options.learning_rate * options.weight_decay);
    const double update = (m / correction.first) / (std::sqrt(v / correction.second) + options.eps);
    p = static_cast<float>(decayed - options.learning_rate * update);
  }
}

void check_flat(const char* op, const char* what, const Tensor& t, std::int64_t length) {
  if (!t.defined() || t.dtype() != DType::f32 || t.rank() != 1 || !t.is_contiguous() || t.numel() != length) {
    fail(ErrorCode::invalid_argument, "[{}] {} is {}, expected a dense f32 [{}]", op, what, describe(t), length);
  }
}

void check_step(const char* op, const Tensor& parameters, const Tensor& gradients, const Tensor& exp_avg,
                const Tensor& exp_avg_sq, const AdamWOptions& options) {
  const std::int64_t length = parameters.numel();
  check_flat(op, "parameters", parameters, length);
  check_flat(op, "gradients", gradients, length);
  check_flat(op, "exp_avg", exp_avg, length);
  check_flat(op, "exp_avg_sq", exp_avg_sq, length);
  for (const Tensor* t : {&gradients, &exp_avg, &exp_avg_sq}) check_same_device(op, parameters, "a buffer", *t);
  for (const Tensor* t : {&parameters, &exp_avg, &exp_avg_sq}) {
    if (!t->storage()->writable()) fail(ErrorCode::invalid_argument, "[{}] a buffer is read-only", op);
  }
  const auto in_range = [&](const char* what, double value, double limit) {
    if (!(value >= 0 && value < limit)) {
      fail(ErrorCode::invalid_argument, "[{}] {} is {}, expected [0, {})", op, what, value, limit);
    }
  };
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  in_range("learning_rate", options.learning_rate, kInfinity);
  in_range("beta1", options.beta1, 1);
  in_range("beta2", options.beta2, 1);
  in_range("eps", options.eps, kInfinity);
  in_range("weight_decay", options.weight_decay, kInfinity);
}

}  // namespace

void adamw_step(const Tensor& parameters, const Tensor& gradients, const Tensor& exp_avg, const Tensor& exp_avg_sq,
                const AdamWOptions& options, std::int64_t step, double grad_scale) {
  constexpr const char* kOp = "adamw_step";
  check_step(kOp, parameters, gradients, exp_avg, exp_avg_sq, options);
  if (step < 1) fail(ErrorCode::invalid_argument, "[{}] step is {}, expected 1 or more", kOp, step);
  if (!run_kernel(kOp, adamw_step_kernels, parameters.device(), parameters, gradients, exp_avg, exp_avg_sq, options,
                  step, grad_scale)) {
    composite(parameters, gradients, exp_avg, exp_avg_sq, options, corrections(options, step), grad_scale);
  }
}

void clipped_adamw_step(const Tensor& parameters, const Tensor& gradients, const Tensor& exp_avg,
                        const Tensor& exp_avg_sq, const AdamWOptions& options, double max_grad_norm,
                        const Tensor& schedule, const Tensor& norm) {
  constexpr const char* kOp = "clipped_adamw_step";
  check_step(kOp, parameters, gradients, exp_avg, exp_avg_sq, options);
  const auto check_scalars = [&](const char* what, const Tensor& t, std::int64_t count) {
    if (!t.defined() || t.dtype() != DType::f64 || t.shape() != Shape{count} || !t.is_contiguous()) {
      fail(ErrorCode::invalid_argument, "[{}] {} is {}, expected a dense f64 [{}]", kOp, what, describe(t), count);
    }
    check_same_device(kOp, parameters, what, t);
  };
  check_scalars("schedule", schedule, 3);
  check_scalars("norm", norm, 1);
  if (!(max_grad_norm >= 0)) {
    fail(ErrorCode::invalid_argument, "[{}] max_grad_norm is {}, expected 0 or more", kOp, max_grad_norm);
  }
  if (run_kernel(kOp, clipped_adamw_step_kernels, parameters.device(), parameters, gradients, exp_avg, exp_avg_sq,
                 options, max_grad_norm, schedule, norm)) {
    return;
  }
  const double found = gradient_norm(gradients);
  norm.fill(found);
  if (!std::isfinite(found)) return;
  const std::vector<double> now = schedule.to_vector<double>();
  AdamWOptions with_rate = options;
  with_rate.learning_rate = now[0];
  composite(parameters, gradients, exp_avg, exp_avg_sq, with_rate, {now[1], now[2]}, clip_factor(found, max_grad_norm));
}

double gradient_norm(const Tensor& gradients) {
  constexpr const char* kOp = "gradient_norm";
  check_flat(kOp, "gradients", gradients, gradients.numel());
  const Tensor norm = Tensor::empty({}, DType::f64, gradients.device());
  if (run_kernel(kOp, gradient_norm_kernels, gradients.device(), gradients, norm)) return norm.item();
  double squares = 0;
  for (const float value : gradients.to_vector<float>()) {
    const double g = value;
    squares += g * g;
  }
  return std::sqrt(squares);
}

}  // namespace wick
