#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace wick::cuda {

/// Philox 4x32-10, as core/rng.cpp.
__device__ inline uint4 philox(uint4 c, uint2 key) {
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    if (round > 0) {
      key.x += 0x9E3779B9U;
      key.y += 0xBB67AE85U;
    }
    const std::uint32_t high0 = __umulhi(0xD2511F53U, c.x);
    const std::uint32_t low0 = 0xD2511F53U * c.x;
    const std::uint32_t high1 = __umulhi(0xCD9E8D57U, c.z);
    const std::uint32_t low1 = 0xCD9E8D57U * c.z;
    c = {high1 ^ c.y ^ key.x, low1, high0 ^ c.w ^ key.y, low0};
  }
  return c;
}

}  // namespace wick::cuda
