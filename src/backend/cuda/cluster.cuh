#pragma once

// Clusters of thread blocks (Hopper): blocks that run at once, wait for each other and read each other's shared memory.
// On earlier devices, and where none is asked for at the launch, a cluster is one block.

#include <cuda_runtime.h>

#include <cstdint>

#include "backend/cuda/runtime.h"

namespace wick::cuda {

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

/// Of the clusters of a grid along x.
__device__ inline unsigned cluster_index() {
  unsigned index = blockIdx.x;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm("mov.u32 %0, %%clusterid.x;" : "=r"(index));
#endif
  return index;
}

/// All threads of the cluster: what was written before cluster_arrive() is seen after cluster_wait(). A block must not
/// end while others may read its memory.
__device__ inline void cluster_arrive() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive;" ::: "memory");
#endif
}
/// The same for a block that has written nothing yet that others read, but what arrival_init() did: without the fence,
/// which waits for all memory and empties L1.
__device__ inline void cluster_arrive_first() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.relaxed;" ::: "memory");
#endif
}
/// In a launch without clusters it is a barrier of the whole block, and cluster_arrive() nothing: there, threads that
/// others wait for before they come here must not wait here for those.
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

/// All threads of the cluster have come here, with what they read; what they wrote may still be under way. Before a
/// block ends whose memory others have read.
__device__ inline void cluster_leave() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.relaxed;" ::: "memory");
#endif
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

}  // namespace wick::cuda
