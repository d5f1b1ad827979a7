#include "backend/gemm.h"
#include "ops/op.h"
#include "ops/primitive/reduce_to.h"

namespace wick {
namespace {

// GEMM is the vendor's on every device, so this op has no kernel table: gemm() picks the library by device.
Tensor product(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  const Tensor rows = as_rows(x);
  const Tensor y = Tensor::empty({rows.size(0), weight.size(0)}, x.dtype(), x.device());
  gemm(rows, weight.transpose(0, 1), y, 1.0, 0.0, bias.defined() ? bias.detach() : bias);
  Shape shape = x.shape();
  shape[-1] = weight.size(0);
  return y.view(shape);
}

// The specification. A bias is added before the product is rounded, as the library does it; without one, matmul rounds
// once anyway, and no wide copy of the weight is needed.
Tensor composite(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  const DType sums = !bias.defined() || x.dtype() == DType::f64 ? x.dtype() : DType::f32;
  const Tensor rows = reshape(x, {row_count(x), x.size(-1)});
  Tensor y = matmul(cast(rows, sums), transpose(cast(weight, sums), 0, 1));
  if (bias.defined()) y = add(y, cast(bias, sums));
  Shape shape = x.shape();
  shape[-1] = weight.size(0);
  return reshape(cast(y, x.dtype()), shape);
}

}  // namespace

Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  constexpr const char* kOp = "linear";
  check_floating(kOp, "x", x);
  check_same_dtype(kOp, x, "weight", weight);
  check_same_device(kOp, x, "weight", weight);
  if (x.rank() < 1 || weight.rank() != 2 || weight.size(1) != x.size(-1)) {
    fail(ErrorCode::invalid_argument, "[linear] weight has shape {}, x has shape {}", to_string(weight.shape()),
         to_string(x.shape()));
  }
  if (bias.defined() && (bias.rank() != 1 || bias.size(0) != weight.size(0) || bias.dtype() != x.dtype())) {
    fail(ErrorCode::invalid_argument, "[linear] bias is {}, expected {} [{}]", describe(bias), to_string(x.dtype()),
         weight.size(0));
  }
  if (!fused_enabled()) return composite(x, weight, bias);
  const Tensor dense_weight =
      weight.stride(1) == 1 || weight.stride(0) == 1 ? weight.detach() : weight.contiguous().detach();
  const Tensor detached = x.detach();
  Tensor y = product(detached, dense_weight, bias);
  record(kOp, {x, weight, bias}, {&y},
         [x = weight.needs_grad() ? detached : Tensor(), shape = x.shape(), weight = dense_weight](
             std::span<const Tensor> grad, const std::vector<bool>& needs) {
           const Tensor dy = as_rows(grad[0]);
           std::vector<Tensor> grads(3);
           if (needs[0]) {
             const Tensor dx = Tensor::empty(shape, dy.dtype(), dy.device());
             gemm(dy, weight, as_rows(dx));
             grads[0] = dx;
           }
           if (needs[1]) {
             const Tensor dw = Tensor::empty(weight.shape(), weight.dtype(), weight.device());
             gemm(dy.transpose(0, 1), as_rows(x), dw);
             grads[1] = dw;
           }
           if (needs[2]) grads[2] = sum(dy, 0);
           return grads;
         });
  return y;
}

}  // namespace wick
