#pragma once

#include "wick/tensor.h"

namespace wick::cuda {

/// wick::gemm() by one plain kernel, for matrices of any strides: each element is a sum over k in order, so a row's
/// bytes depend on nothing but that row. Slow beside the library.
void gemm_tiled(const Tensor& a, const Tensor& b, const Tensor& c, double alpha, double beta, const Tensor& bias);

/// True if two matrices of one shape and dtype have the same bytes. Columns are dense; rows may lie anyhow, also all in
/// one place. Waits for the device.
bool same_bytes(const Tensor& a, const Tensor& b);

}  // namespace wick::cuda
