#pragma once

#include "ops/kernel_table.h"

namespace wick {

/// y += what the adapters add, or the whole product where the layouts allow one GEMM; h [tokens, rank] is saved for
/// backward. GEMMs only, so one kernel serves every device whose library gemm() knows.
struct LoraForward {
  Tensor y;
  Tensor h;
};
LoraForward lora_forward(const Tensor& x, const LoraWeight& weight, const Tensor& bias);

/// dx (where needed), and dA, dB f32 for each block (where needed).
struct LoraGradients {
  Tensor dx;
  std::vector<Tensor> da;
  std::vector<Tensor> db;
};
LoraGradients lora_backward(const Tensor& dy, const Tensor& x, const Tensor& h, const LoraWeight& weight, bool needs_x,
                            const std::vector<bool>& needs_a, const std::vector<bool>& needs_b);

}  // namespace wick
