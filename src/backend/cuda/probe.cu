#include "backend/cuda/runtime.h"

namespace wick::cuda {
namespace {

__global__ void nothing() {}

}  // namespace

cudaError_t find_kernel(int& compiled_for) {
  cudaFuncAttributes found = {};
  const cudaError_t status = cudaFuncGetAttributes(&found, nothing);
  compiled_for = found.ptxVersion > 0 ? found.ptxVersion : found.binaryVersion;  // 0: it is not known
  return status;
}

}  // namespace wick::cuda
