#pragma once

// Copies into shared memory that report their arrival (Hopper): from global memory, which no registers hold on the way,
// and to the other blocks of a cluster, which then need no barrier. On earlier devices nothing here may be called.

#include <cuda_runtime.h>

#include <cstdint>

namespace wick::cuda {

/// In shared memory: counts the bytes that are expected and come. When as many have come as were expected a phase is
/// over and the next begins; the first is phase 0, and waiting takes the parity of its number.
using Arrival = std::uint64_t;

__device__ inline std::uint32_t shared_address(const void* p) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(p));
}

/// By one thread. The others, of the cluster too, may use it after the next barrier.
__device__ inline void arrival_init([[maybe_unused]] Arrival* arrival) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile(
      "mbarrier.init.shared::cta.b64 [%0], 1;\n"
      "fence.mbarrier_init.release.cluster;" ::"r"(shared_address(arrival))
      : "memory");
#endif
}

/// By one thread, once in a phase. Some of the bytes may have come before.
__device__ inline void arrival_expect([[maybe_unused]] Arrival* arrival, [[maybe_unused]] std::uint32_t bytes) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(arrival)), "r"(bytes)
               : "memory");
#endif
}

/// Until the phase is over: the threads that have waited see what load_async() brought and, with kFromCluster, what
/// other blocks have sent.
template <bool kFromCluster = false>
__device__ inline void arrival_wait([[maybe_unused]] Arrival* arrival, [[maybe_unused]] std::uint32_t parity) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  std::uint32_t over = 0;
  do {
    if constexpr (kFromCluster) {
      asm volatile(
          "{\n"
          "  .reg .pred p;\n"
          "  mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], %2;\n"
          "  selp.u32 %0, 1, 0, p;\n"
          "}"
          : "=r"(over)
          : "r"(shared_address(arrival)), "r"(parity)
          : "memory");
    } else {
      asm volatile(
          "{\n"
          "  .reg .pred p;\n"
          "  mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
          "  selp.u32 %0, 1, 0, p;\n"
          "}"
          : "=r"(over)
          : "r"(shared_address(arrival)), "r"(parity)
          : "memory");
    }
  } while (over == 0);
#endif
}

/// A stretch of global memory, by one thread, after a barrier behind which nobody reads what `to` held. Both addresses
/// and `bytes` are multiples of 16.
__device__ inline void load_async([[maybe_unused]] void* to, [[maybe_unused]] const void* from,
                                  [[maybe_unused]] std::uint32_t bytes, [[maybe_unused]] Arrival* arrival) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                   shared_address(to)),
               "l"(__cvta_generic_to_global(from)), "r"(bytes), "r"(shared_address(arrival))
               : "memory");
#endif
}

/// 16 bytes to where `to` and `arrival` are in block `rank` of the cluster.
__device__ inline void send_async([[maybe_unused]] float4* to, [[maybe_unused]] const float4& v,
                                  [[maybe_unused]] Arrival* arrival, [[maybe_unused]] unsigned rank) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile(
      "{\n"
      "  .reg .b32 to, arrival;\n"
      "  mapa.shared::cluster.u32 to, %0, %6;\n"
      "  mapa.shared::cluster.u32 arrival, %1, %6;\n"
      "  st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [to], {%2, %3, %4, %5}, [arrival];\n"
      "}" ::"r"(shared_address(to)),
      "r"(shared_address(arrival)), "f"(v.x), "f"(v.y), "f"(v.z), "f"(v.w), "r"(rank)
      : "memory");
#endif
}

}  // namespace wick::cuda
