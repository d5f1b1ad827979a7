#pragma once

#include <string>
#include <vector>

#include "wick/tensor.h"

namespace wick::cuda {

/// wick::gemm() on CUDA tensors through cuBLASLt: float32 accumulation, no TF32. Plans are kept by shape; `k` > 0.
/// Error(device) when cuBLASLt is not there or fails; where libraries_wanted() is false, gemm_tiled() takes its place.
/// Under BatchInvariance a row of c has the same bytes whatever the
/// rows of `a`, dense, are and how many, except in f64.
void gemm(const Tensor& a, const Tensor& b, const Tensor& c, double alpha, double beta, const Tensor& bias);

/// The products that were computed under BatchInvariance, a line each with what was chosen for it: for tests to show.
std::vector<std::string> invariant_products();

}  // namespace wick::cuda
