#pragma once

#include "backend/cuda/gemv.h"

namespace wick::cuda {

/// How gemv_streamed() divides its work. The order of its sums follows from `warps`, and from how many columns of the
/// weight a stage takes: of its rows, up to 16 that are the block's, as many as `stage` has room for.
struct GemvPlan {
  int warps = 8;       ///< of a block that multiply, 1 to 16; one more fetches
  int blocks = 1;      ///< for a multiprocessor
  int stage = 16;      ///< KiB of weights that are fetched and waited for together, about
  int ring = 96;       ///< KiB of weights that a block has in shared memory, at most; two stages at least
  int in_flight = 32;  ///< KiB of weights that a block waits for at a time, about; one stage at least
};

/// gemv() of a frozen weight on Hopper whose stages lie in shared memory: they come while earlier kernels run, as far
/// as the ring has room. Takes what gemv() takes, and declines (false, nothing done) what is not frozen, other devices,
/// and more than kGemvStreamedColumns columns of y for a block.
bool gemv_streamed(const Tensor& x, const Tensor& weight, const Tensor& y, float alpha, float beta,
                   const GemvOptions& options, const GemvPlan& plan = {});

/// Dtypes, extents and strides as gemv() asks for.
bool gemv_takes(const Tensor& x, const Tensor& weight, const Tensor& y, const GemvOptions& options);

/// gemv() with weights that come through registers: any weight, on all devices that have tensor cores for its dtype.
bool gemv_in_registers(const Tensor& x, const Tensor& weight, const Tensor& y, float alpha, float beta,
                       const GemvOptions& options);

inline constexpr int kGemvStreamedColumns = 256;

}  // namespace wick::cuda
