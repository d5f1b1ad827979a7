#include "ops/fused_linear/fused_linear.h"
#include "ops/lora_linear/lora_linear.h"
#include "ops/op.h"

namespace wick {

Kernels<FusedLinearForward> fused_linear_forward;
Kernels<LinearGeluForward> linear_gelu_forward;
Kernels<LinearNormForward> linear_norm_forward;

namespace {

constexpr const char* kOp = "fused_linear";

void check(const Tensor& x, const LoraWeight& weight, const Tensor& bias, const LinearFusion& fusion) {
  check_floating(kOp, "x", x);
  check_same_dtype(kOp, x, "weight", weight.core());
  check_same_device(kOp, x, "weight", weight.core());
  const std::int64_t n = weight.core().size(0);
  if (x.rank() != 2 || x.size(1) != weight.core().size(1)) {
    fail(ErrorCode::invalid_argument, "[{}] the weight has shape {}, x has shape {}", kOp,
         to_string(weight.core().shape()), to_string(x.shape()));
  }
  if (bias.defined() && (bias.rank() != 1 || bias.size(0) != n || bias.dtype() != x.dtype())) {
    fail(ErrorCode::invalid_argument, "[{}] bias is {}, expected {} [{}]", kOp, describe(bias), to_string(x.dtype()),
         n);
  }
  if (fusion.norm.defined()) check_row_vector(kOp, x, "norm", fusion.norm);
  for (const auto& [what, vector] : {std::pair{"after", &fusion.after}, {"after_bias", &fusion.after_bias}}) {
    if (!vector->defined()) continue;
    check_same_dtype(kOp, x, what, *vector);
    if (vector->rank() != 1 || vector->size(0) != (fusion.swiglu ? n / 2 : n)) {
      fail(ErrorCode::invalid_argument, "[{}] {} is {} for a result of {} columns", kOp, what, describe(*vector),
           fusion.swiglu ? n / 2 : n);
    }
  }
  if (fusion.swiglu && fusion.gelu) fail(ErrorCode::invalid_argument, "[{}] swiglu and gelu in one", kOp);
  if (fusion.swiglu && n % 2 != 0) fail(ErrorCode::invalid_argument, "[{}] gate and up of {} rows in all", kOp, n);
  if (fusion.border < 0) fail(ErrorCode::invalid_argument, "[{}] border is {}, expected 0 or more", kOp, fusion.border);
  const Shape shape = {x.size(0), fusion.swiglu ? n / 2 : n};
  if (fusion.residual.defined() && fusion.residual.shape() != shape) {
    fail(ErrorCode::invalid_argument, "[{}] residual is {}, expected {}", kOp, describe(fusion.residual),
         to_string(shape));
  }
  if (fusion.residual.defined()) check_same_dtype(kOp, x, "residual", fusion.residual);
}

// The specification: op by op, each with its own kernels.
Tensor composite(const Tensor& x, const LoraWeight& weight, const Tensor& bias, std::span<const LoraBranch> branches,
                 const LinearFusion& fusion) {
  const std::int64_t border = weight.layout() == LoraLayout::bordered ? weight.rank() : 0;
  const Tensor input = fusion.norm.defined() ? rms_norm(x, fusion.norm, fusion.eps, border) : x;
  Tensor y = lora_linear(input, weight, bias, branches);
  if (fusion.swiglu) {
    const std::int64_t n = y.size(1) / 2;
    y = swiglu(slice(y, 1, 0, n), slice(y, 1, n, n), fusion.residual.defined() ? 0 : fusion.border);
  }
  if (fusion.gelu) y = gelu(y, *fusion.gelu);
  const Tensor& residual = fusion.residual;
  if (!fusion.after.defined()) return residual.defined() ? add(y, residual) : y;
  if (!residual.defined()) return layer_norm(y, fusion.after, fusion.after_bias, fusion.after_eps);
  return layer_norm_residual(y, residual, fusion.after, fusion.after_bias, fusion.after_eps);
}

// A plain layer with what stands behind it by one kernel, where there is one for it; undefined where not.
Tensor run_many(const Tensor& x, const LoraWeight& weight, const Tensor& bias, const LinearFusion& fusion) {
  const bool plain = weight.rank() == 0 && !fusion.norm.defined() && !fusion.swiglu && fusion.border == 0;
  if (!plain || !fused_enabled()) return {};
  const Tensor y = Tensor::empty({x.size(0), weight.core().size(0)}, x.dtype(), x.device());
  const auto ran = [&](auto& kernels, const auto& what) {
    const auto kernel = kernels.on(x.device().type);
    return kernel != nullptr && kernel(as_rows(x), weight.core(), bias, what, y) == nullptr;
  };
  if (fusion.gelu && !fusion.after.defined() && !fusion.residual.defined()) {
    return ran(linear_gelu_forward, *fusion.gelu) ? y : Tensor();
  }
  if (fusion.after.defined() && fusion.residual.defined() && !fusion.gelu) {
    return ran(linear_norm_forward, fusion) ? y : Tensor();
  }
  return {};
}

// True if kernels did it all. An adapter's h is written beside x, which has to have room for it.
bool run_few(const Tensor& x, const LoraWeight& weight, const Tensor& bias, const LinearFusion& fusion,
             const Tensor& y) {
  const auto run = [&](const Tensor& from, const Tensor& matrix, const Tensor& added, const LinearFusion& around,
                       const Tensor& to) {
    return run_kernel(kOp, fused_linear_forward, x.device(), from, matrix, added, around, to);
  };
  if (weight.rank() == 0) return run(as_rows(x), weight.core(), bias, fusion, y);
  if (!weight.bordered().defined()) return false;
  const Tensor input = as_rows(fusion.norm.defined() ? rms_norm(x, fusion.norm, fusion.eps, weight.rank()) : x);
  const Tensor h = claim_border(input, weight);
  if (!h.defined()) return false;
  LinearFusion rest = fusion;
  rest.norm = {};
  return run(input, weight.a(), {}, {.at_rest = fusion.at_rest}, h) &&
         run(with_border(input, weight.rank()), weight.bordered().slice(0, 0, weight.core().size(0)), bias, rest, y);
}

}  // namespace

Tensor fused_linear(const Tensor& given, const LoraWeight& weight, const Tensor& bias,
                    std::span<const LoraBranch> branches, const LinearFusion& given_fusion) {
  check(given, weight, bias, given_fusion);
  const NoGrad no_grad;
  const Tensor x = given.detach();
  LinearFusion fusion = given_fusion;
  if (fusion.norm.defined()) fusion.norm = fusion.norm.detach().contiguous();
  if (fusion.residual.defined()) fusion.residual = as_rows(fusion.residual.detach());
  if (fusion.after.defined()) fusion.after = fusion.after.detach().contiguous();
  if (fusion.after_bias.defined()) fusion.after_bias = fusion.after_bias.detach().contiguous();
  const std::int64_t n = weight.core().size(0);
  // A device without a kernel is none that falls back: op by op is its way.
  if (fusion.gelu || fusion.after.defined()) {
    const Tensor y = run_many(x, weight, bias.detach(), fusion);
    return y.defined() ? y : composite(x, weight, bias, branches, fusion);
  }
  if (fused_linear_forward.on(x.device().type) != nullptr && x.size(0) > 0 && x.size(0) <= kFewTokens) {
    const Tensor y = Tensor::bordered({x.size(0), fusion.swiglu ? n / 2 : n}, fusion.border, x.dtype(), x.device());
    if (run_few(x, weight, bias.detach(), fusion, y)) return y;
  }
  return composite(x, weight, bias, branches, fusion);
}

}  // namespace wick
