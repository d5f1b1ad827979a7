#pragma once

// Bulk copies into shared memory (Hopper): one thread asks for a stretch of global memory, no registers hold it on its
// way, and the block waits for it where it needs it. On earlier devices there are none: nothing here may be called.

#include <cuda_runtime.h>

#include <cstdint>

namespace wick::cuda {

/// In shared memory: whether a bulk copy has come. One copy at a time. Its phases, the first of them 0, have the parity
/// that bulk_wait() takes: each copy ends one.
using BulkArrival = std::uint64_t;

__device__ inline std::uint32_t shared_address(const void* p) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(p));
}

/// By one thread; the others may use it after the next barrier.
__device__ inline void bulk_init([[maybe_unused]] BulkArrival* arrival) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile(
      "mbarrier.init.shared::cta.b64 [%0], 1;\n"
      "fence.mbarrier_init.release.cluster;" ::"r"(shared_address(arrival))
      : "memory");
#endif
}

/// By one thread, after a barrier behind which nobody reads what `to` held. Both addresses and `bytes` (below 1 MiB) are
/// multiples of 16.
__device__ inline void bulk_load([[maybe_unused]] void* to, [[maybe_unused]] const void* from,
                                 [[maybe_unused]] std::uint32_t bytes, [[maybe_unused]] BulkArrival* arrival) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile(
      "fence.proxy.async.shared::cta;\n"
      "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%3], %2;\n"
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
          shared_address(to)),
      "l"(__cvta_generic_to_global(from)), "r"(bytes), "r"(shared_address(arrival))
      : "memory");
#endif
}

/// Until the copy of the phase with this parity is there, for the thread that waits.
__device__ inline void bulk_wait([[maybe_unused]] BulkArrival* arrival, [[maybe_unused]] bool parity) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  std::uint32_t there = 0;
  do {
    asm volatile(
        "{\n"
        "  .reg .pred p;\n"
        "  mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
        "  selp.u32 %0, 1, 0, p;\n"
        "}"
        : "=r"(there)
        : "r"(shared_address(arrival)), "r"(static_cast<std::uint32_t>(parity))
        : "memory");
  } while (there == 0);
#endif
}

}  // namespace wick::cuda
