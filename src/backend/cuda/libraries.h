#pragma once

#include <vector>

#include "backend/backend.h"

namespace wick::cuda {

/// The libraries that are opened at run time: cuBLASLt, cuDNN, NCCL, each with its version or why it is missing.
std::vector<Backend::Library> libraries();

}  // namespace wick::cuda
