#pragma once

#include "wick/tensor.h"

namespace wick::cuda {

/// wick::gemm() on CUDA tensors through cuBLASLt: float32 accumulation, no TF32. Plans are kept by shape; `k` > 0.
/// Error(device) when cuBLASLt is not there or fails.
void gemm(const Tensor& a, const Tensor& b, const Tensor& c, double alpha, double beta, const Tensor& bias);

}  // namespace wick::cuda
