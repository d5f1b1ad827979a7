#pragma once

// Clusters of thread blocks (Hopper): blocks that run at once, wait for each other and read each other's shared memory.
// On earlier devices, and where none is asked for at the launch, a cluster is one block.

#include <cuda_runtime.h>

#include <cstdint>

namespace wick::cuda {

/// Blocks of a cluster that every Hopper device can run at once.
inline constexpr unsigned kMaxCluster = 8;

__device__ inline unsigned cluster_blocks() {
  unsigned count = 1;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(count));
#endif
  return count;
}

__device__ inline unsigned cluster_rank() {
  unsigned rank = 0;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
#endif
  return rank;
}

/// All threads of the cluster: what was written before cluster_arrive() is seen after cluster_wait(). A block must not
/// end while others may read its memory.
__device__ inline void cluster_arrive() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive;" ::: "memory");
#endif
}
__device__ inline void cluster_wait() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.wait;" ::: "memory");
#else
  __syncthreads();
#endif
}
__device__ inline void cluster_sync() {
  cluster_arrive();
  cluster_wait();
}

/// The same variable in the shared memory of another block of the cluster.
template <class T>
__device__ inline T* in_block(T* shared, [[maybe_unused]] unsigned rank) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  T* remote;
  asm("mapa.u64 %0, %1, %2;" : "=l"(remote) : "l"(shared), "r"(rank));
  return remote;
#else
  return shared;
#endif
}

// Values sent from block to block. A cluster barrier has each thread wait until all it ever wrote, to global memory
// too, has arrived, and empties L1; an mbarrier that counts the bytes which arrive in its own block's shared memory
// does not. It goes through phases, of parity 0, 1, 0, ...

/// Called by one thread of the block. The others may use the mbarrier after the next barrier of block or cluster.
__device__ inline void mbarrier_init([[maybe_unused]] std::uint64_t* barrier) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile(
      "mbarrier.init.shared::cta.b64 [%0], 1;\n"
      "fence.mbarrier_init.release.cluster;" ::"r"(static_cast<std::uint32_t>(__cvta_generic_to_shared(barrier)))
      : "memory");
#endif
}

/// The phase is over when this many bytes have arrived. Called by one thread in each phase; values may be earlier.
__device__ inline void mbarrier_expect([[maybe_unused]] std::uint64_t* barrier, [[maybe_unused]] unsigned bytes) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(
                   static_cast<std::uint32_t>(__cvta_generic_to_shared(barrier))),
               "r"(bytes)
               : "memory");
#endif
}

/// Waits for the end of the mbarrier's phase of that parity, and sees the values that it counted. They are in the
/// block's own shared memory: acquiring at the cluster's scope would only empty L1.
__device__ inline void mbarrier_wait([[maybe_unused]] std::uint64_t* barrier, [[maybe_unused]] unsigned parity) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  std::uint32_t over = 0;
  while (over == 0) {
    asm volatile(
        "{\n"
        "  .reg .pred p;\n"
        "  mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
        "  selp.u32 %0, 1, 0, p;\n"
        "}"
        : "=r"(over)
        : "r"(static_cast<std::uint32_t>(__cvta_generic_to_shared(barrier))), "r"(parity)
        : "memory");
  }
#endif
}

/// Writes 4, 8 or 16 bytes to a variable in another block of the cluster, or the own one, and has them counted by an
/// mbarrier of that block. Both are named by the addresses that they have in the own block.
template <class Value>
__device__ inline void send([[maybe_unused]] Value* to, [[maybe_unused]] const Value& value,
                            [[maybe_unused]] std::uint64_t* barrier, [[maybe_unused]] unsigned rank) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  static_assert(sizeof(Value) == 4 || sizeof(Value) == 8 || sizeof(Value) == 16);
  const auto at = [rank](const void* shared) {
    std::uint32_t remote;
    asm("mapa.shared::cluster.u32 %0, %1, %2;"
        : "=r"(remote)
        : "r"(static_cast<std::uint32_t>(__cvta_generic_to_shared(shared))), "r"(rank));
    return remote;
  };
  const auto* words = reinterpret_cast<const std::uint32_t*>(&value);
  if constexpr (sizeof(Value) == 4) {
    asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.b32 [%0], %2, [%1];" ::"r"(at(to)),
                 "r"(at(barrier)), "r"(words[0])
                 : "memory");
  } else if constexpr (sizeof(Value) == 8) {
    asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v2.b32 [%0], {%2, %3}, [%1];" ::"r"(at(to)),
                 "r"(at(barrier)), "r"(words[0]), "r"(words[1])
                 : "memory");
  } else {
    asm volatile(
        "st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%0], {%2, %3, %4, %5}, [%1];" ::"r"(at(to)),
        "r"(at(barrier)), "r"(words[0]), "r"(words[1]), "r"(words[2]), "r"(words[3])
        : "memory");
  }
#endif
}

}  // namespace wick::cuda
