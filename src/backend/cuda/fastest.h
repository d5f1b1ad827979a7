#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <functional>

namespace wick::cuda {

/// Which of `count` ways to do one thing takes the least time on `stream`: the median of rounds in which they take
/// turns, each after `scratch`, which is larger than the L2 cache, was written. The first way, unless another is faster
/// by more than times scatter. run(i) queues way i, or returns false when it is none: it is then left out. Waits.
std::size_t fastest(cudaStream_t stream, std::size_t count, const std::function<bool(std::size_t)>& run, void* scratch,
                    std::size_t scratch_bytes);

}  // namespace wick::cuda
