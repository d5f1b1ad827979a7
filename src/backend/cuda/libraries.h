#pragma once

#include <cstddef>
#include <vector>

#include "backend/backend.h"

namespace wick::cuda {

/// cuDNN's 9.10.2, as cudnnGetVersion() says it: older releases are not used.
inline constexpr std::size_t kOldestCudnn = 91002;

/// The libraries that are opened at run time: cuBLASLt, cuDNN, NCCL, each with its version or why it is missing.
std::vector<Backend::Library> libraries();

}  // namespace wick::cuda
