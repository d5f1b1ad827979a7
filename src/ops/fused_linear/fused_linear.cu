#include "ops/fused_linear/fused_linear.h"

#include "backend/cuda/gemm_norm.h"
#include "backend/cuda/gemm_resident.h"
#include "backend/cuda/gemv.h"

namespace wick::cuda {
namespace {

Declined fused_linear_forward_cuda(const Tensor& x, const Tensor& weight, const Tensor& bias,
                                   const LinearFusion& fusion, const Tensor& y) {
  if (x.dtype() != DType::bf16 && x.dtype() != DType::f16) return "neither bf16 nor f16";
  const GemvOptions options{.norm = fusion.norm,
                            .eps = static_cast<float>(fusion.eps),
                            .bias = bias,
                            .residual = fusion.residual,
                            .swiglu = fusion.swiglu,
                            .frozen = fusion.at_rest};
  return gemv(x, weight, y, 1, 0, options) ? nullptr : "rows that are not aligned to 16 bytes, or too long";
}

Declined linear_gelu_forward_cuda(const Tensor& x, const Tensor& weight, const Tensor& bias, GeluKind kind,
                                  const Tensor& y) {
  return gemm_resident(x, weight, y, bias, kind) ? nullptr : "a weight or a device that it is not made for";
}

Declined linear_norm_forward_cuda(const Tensor& x, const Tensor& weight, const Tensor& bias, const LinearFusion& fusion,
                                  const Tensor& y) {
  const NormAfter after{.bias = bias,
                        .residual = fusion.residual,
                        .weight = fusion.after,
                        .shift = fusion.after_bias,
                        .eps = static_cast<float>(fusion.after_eps)};
  return gemm_norm(x, weight, after, y) ? nullptr : "a weight or a device that it is not made for";
}

}  // namespace

void register_fused_linear() {
  fused_linear_forward.on(DeviceType::cuda) = fused_linear_forward_cuda;
  linear_gelu_forward.on(DeviceType::cuda) = linear_gelu_forward_cuda;
  linear_norm_forward.on(DeviceType::cuda) = linear_norm_forward_cuda;
}

}  // namespace wick::cuda
