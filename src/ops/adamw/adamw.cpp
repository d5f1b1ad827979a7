#include "ops/adamw/adamw.h"
#include "ops/op.h"

#include <cmath>
#include <limits>

namespace wick {

Kernels<AdamWStep> adamw_step_kernels{{adamw_step_cpu}};
Kernels<GradientNorm> gradient_norm_kernels{{gradient_norm_cpu}};

namespace {

// Plain loops on the host; on a device copies of the buffers make the way there and back.
void composite(const Tensor& parameters, const Tensor& gradients, const Tensor& exp_avg, const Tensor& exp_avg_sq,
               const AdamWOptions& options, std::int64_t step, double grad_scale) {
  if (parameters.device().type != DeviceType::cpu) {
    const Tensor host[] = {parameters.to(Device::cpu()), gradients.to(Device::cpu()), exp_avg.to(Device::cpu()),
                           exp_avg_sq.to(Device::cpu())};
    composite(host[0], host[1], host[2], host[3], options, step, grad_scale);
    parameters.copy_from(host[0]);
    exp_avg.copy_from(host[2]);
    exp_avg_sq.copy_from(host[3]);
    return;
  }
  const double correction1 = 1 - std::pow(options.beta1, static_cast<double>(step));
  const double correction2 = 1 - std::pow(options.beta2, static_cast<double>(step));
  for (std::int64_t i = 0; i < parameters.numel(); ++i) {
    float& p = parameters.data<float>()[i];
    float& m = exp_avg.data<float>()[i];
    float& v = exp_avg_sq.data<float>()[i];
    const double g = gradients.data<float>()[i] * grad_scale;
    m = static_cast<float>(options.beta1 * m + (1 - options.beta1) * g);
    v = static_cast<float>(options.beta2 * v + (1 - options.beta2) * g * g);
    const double decayed = p * (1 - options.learning_rate * options.weight_decay);
    const double update = (m / correction1) / (std::sqrt(v / correction2) + options.eps);
    p = static_cast<float>(decayed - options.learning_rate * update);
  }
}

void check_flat(const char* op, const char* what, const Tensor& t, std::int64_t length) {
  if (!t.defined() || t.dtype() != DType::f32 || t.rank() != 1 || !t.is_contiguous() || t.numel() != length) {
    fail(ErrorCode::invalid_argument, "[{}] {} is {}, expected a dense f32 [{}]", op, what, describe(t), length);
  }
}

}  // namespace

void adamw_step(const Tensor& parameters, const Tensor& gradients, const Tensor& exp_avg, const Tensor& exp_avg_sq,
                const AdamWOptions& options, std::int64_t step, double grad_scale) {
  constexpr const char* kOp = "adamw_step";
  const std::int64_t length = parameters.numel();
  check_flat(kOp, "parameters", parameters, length);
  check_flat(kOp, "gradients", gradients, length);
  check_flat(kOp, "exp_avg", exp_avg, length);
  check_flat(kOp, "exp_avg_sq", exp_avg_sq, length);
  for (const Tensor* t : {&gradients, &exp_avg, &exp_avg_sq}) check_same_device(kOp, parameters, "a buffer", *t);
  for (const Tensor* t : {&parameters, &exp_avg, &exp_avg_sq}) {
    if (!t->storage()->writable()) fail(ErrorCode::invalid_argument, "[{}] a buffer is read-only", kOp);
  }
  const auto in_range = [&](const char* what, double value, double limit) {
    if (!(value >= 0 && value < limit)) {
      fail(ErrorCode::invalid_argument, "[{}] {} is {}, expected [0, {})", kOp, what, value, limit);
    }
  };
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  in_range("learning_rate", options.learning_rate, kInfinity);
  in_range("beta1", options.beta1, 1);
  in_range("beta2", options.beta2, 1);
  in_range("eps", options.eps, kInfinity);
  in_range("weight_decay", options.weight_decay, kInfinity);
  if (step < 1) fail(ErrorCode::invalid_argument, "[{}] step is {}, expected 1 or more", kOp, step);
  if (!run_kernel(kOp, adamw_step_kernels, parameters.device(), parameters, gradients, exp_avg, exp_avg_sq, options,
                  step, grad_scale)) {
    composite(parameters, gradients, exp_avg, exp_avg_sq, options, step, grad_scale);
  }
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
