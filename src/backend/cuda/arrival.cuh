#pragma once

// Copies into shared memory that report their arrival (Hopper): from global memory, which no registers hold on the way,
// and to the other blocks of a cluster, which then need no barrier: that has each thread wait until all it ever wrote,
// to global memory too, has arrived, and empties L1. On earlier devices nothing here may be called.

#include <cstdint>

#include "backend/cuda/ptx.cuh"

namespace wick::cuda {

/// In shared memory: counts the bytes that are expected and come. When as many have come as were expected, and every
/// party has arrived, a phase is over and the next begins; the first is phase 0, and waiting takes the parity of its
/// number.
using Arrival = std::uint64_t;

/// By one thread. The others, of the cluster too, may use it after the next barrier. A phase also waits for `parties`
/// calls of arrival_expect() or arrive().
__device__ inline void arrival_init([[maybe_unused]] Arrival* arrival, [[maybe_unused]] std::uint32_t parties = 1) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile(
      "mbarrier.init.shared::cta.b64 [%0], %1;\n"
      "fence.mbarrier_init.release.cluster;" ::"r"(shared_address(arrival)),
      "r"(parties)
      : "memory");
#endif
}

/// By one thread: a party that expects no bytes, and has done what it did before.
__device__ inline void arrive([[maybe_unused]] Arrival* arrival) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(arrival)) : "memory");
#endif
}

/// By one thread: such a party of what is in this place in block `rank` of the cluster. What it read before is no
/// longer needed; what it wrote is not shown: ordering that at the cluster's scope takes as long as a load from L2.
__device__ inline void arrive_in([[maybe_unused]] Arrival* arrival, [[maybe_unused]] unsigned rank) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile(
      "{\n"
      "  .reg .b32 there;\n"
      "  mapa.shared::cluster.u32 there, %0, %1;\n"
      "  mbarrier.arrive.shared::cluster.b64 _, [there];\n"
      "}" ::"r"(shared_address(arrival)),
      "r"(rank)
      : "memory");
#endif
}

/// By one thread, once in a phase: a party that expects bytes. Some of them may have come before.
__device__ inline void arrival_expect([[maybe_unused]] Arrival* arrival, [[maybe_unused]] std::uint32_t bytes) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(arrival)), "r"(bytes)
               : "memory");
#endif
}

/// Until the phase is over: the threads that have waited see what load_async() brought and other blocks have sent. It
/// is in the block's own shared memory: acquiring at the cluster's scope would only empty L1. The hardware may hold the
/// thread for as long as the hint says, in nanoseconds: each time that it asks again is work for a tool that observes.
__device__ inline void arrival_wait([[maybe_unused]] Arrival* arrival, [[maybe_unused]] std::uint32_t parity) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  std::uint32_t over = 0;
  while (over == 0) {
    asm volatile(
        "{\n"
        "  .reg .pred p;\n"
        "  mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2, %3;\n"
        "  selp.u32 %0, 1, 0, p;\n"
        "}"
        : "=r"(over)
        : "r"(shared_address(arrival)), "r"(parity), "r"(10'000'000)
        : "memory");
  }
#endif
}

/// Before the barrier after which load_async() may begin, by all threads that have read or written what is there:
/// copies are of another proxy, which a barrier alone does not order with them (PTX ISA, "Proxies").
__device__ inline void leave_to_copies() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

/// A stretch of global memory, by one thread, after a barrier behind which nobody reads what `to` held: see
/// leave_to_copies(). Both addresses and `bytes` are multiples of 16.
__device__ inline void load_async([[maybe_unused]] void* to, [[maybe_unused]] const void* from,
                                  [[maybe_unused]] std::uint32_t bytes, [[maybe_unused]] Arrival* arrival) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                   shared_address(to)),
               "l"(__cvta_generic_to_global(from)), "r"(bytes), "r"(shared_address(arrival))
               : "memory");
#endif
}
__device__ inline void load_async([[maybe_unused]] void* to, [[maybe_unused]] const void* from,
                                  [[maybe_unused]] std::uint32_t bytes, [[maybe_unused]] Arrival* arrival,
                                  [[maybe_unused]] L2Policy policy) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;" ::
          "r"(shared_address(to)),
      "l"(__cvta_generic_to_global(from)), "r"(bytes), "r"(shared_address(arrival)), "l"(policy.bits)
      : "memory");
#endif
}

/// 4, 8 or 16 bytes to where `to` and `arrival` are in block `rank` of the cluster, which may be the own one. A block
/// that was launched without a cluster may not send.
template <class Value>
__device__ inline void send_async([[maybe_unused]] Value* to, [[maybe_unused]] const Value& value,
                                  [[maybe_unused]] Arrival* arrival, [[maybe_unused]] unsigned rank) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  static_assert(sizeof(Value) == 4 || sizeof(Value) == 8 || sizeof(Value) == 16);
  const auto at = [rank](const void* shared) {
    std::uint32_t remote;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(shared_address(shared)), "r"(rank));
    return remote;
  };
  const auto* words = reinterpret_cast<const std::uint32_t*>(&value);
  if constexpr (sizeof(Value) == 4) {
    asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.b32 [%0], %2, [%1];" ::"r"(at(to)),
                 "r"(at(arrival)), "r"(words[0])
                 : "memory");
  } else if constexpr (sizeof(Value) == 8) {
    asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v2.b32 [%0], {%2, %3}, [%1];" ::"r"(at(to)),
                 "r"(at(arrival)), "r"(words[0]), "r"(words[1])
                 : "memory");
  } else {
    asm volatile(
        "st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%0], {%2, %3, %4, %5}, [%1];" ::"r"(at(to)),
        "r"(at(arrival)), "r"(words[0]), "r"(words[1]), "r"(words[2]), "r"(words[3])
        : "memory");
  }
#endif
}

}  // namespace wick::cuda
