#pragma once

// Instructions that CUDA C++ has no name for.

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "backend/cuda/l2_marks.h"

namespace wick::cuda {

/// The block's dynamic shared memory.
__device__ inline std::byte* dynamic_shared() {
  extern __shared__ __align__(128) uint4 words[];
  return reinterpret_cast<std::byte*>(words);
}

/// The address by which instructions know a place in the block's shared memory.
__device__ inline std::uint32_t shared_address(const void* p) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(p));
}

/// A barrier of the block's first kThreads threads, whole warps, where the others may have ended: __syncthreads() works
/// there too, but under racecheck of compute-sanitizer it waits for them for ever in a cluster.
template <int kThreads>
__device__ inline void barrier_of_first() {
  static_assert(kThreads % 32 == 0);
  asm volatile("bar.sync 15, %0;" ::"n"(kThreads) : "memory");
}

/// 16 bytes of global memory that are read once: L1 is left to what is read again. Without `valid` nothing is read, and
/// every word is `otherwise`. All such loads keep their order, so that none waits for another's use.
__device__ inline uint4 load_once(const uint4* from, bool valid, std::uint32_t otherwise = 0) {
  uint4 v = {otherwise, otherwise, otherwise, otherwise};
  asm volatile(
      "{\n"
      "  .reg .pred p;\n"
      "  setp.ne.u32 p, %5, 0;\n"
      "  @p ld.global.L1::no_allocate.v4.b32 {%0, %1, %2, %3}, [%4];\n"
      "}"
      : "+r"(v.x), "+r"(v.y), "+r"(v.z), "+r"(v.w)
      : "l"(__cvta_generic_to_global(from)), "r"(static_cast<std::uint32_t>(valid)));
  return v;
}

/// Writes 16 bytes if `valid`, without a branch.
__device__ inline void store_if(uint4* to, const uint4& v, bool valid) {
  asm volatile(
      "{\n"
      "  .reg .pred p;\n"
      "  setp.ne.u32 p, %5, 0;\n"
      "  @p st.global.v4.b32 [%4], {%0, %1, %2, %3};\n"
      "}" ::"r"(v.x),
      "r"(v.y), "r"(v.z), "r"(v.w), "l"(__cvta_generic_to_global(to)), "r"(static_cast<std::uint32_t>(valid))
      : "memory");
}

/// What becomes of the lines in L2 that load_once() and store_if() touch.
struct L2Policy {
  std::uint64_t bits;
};
__device__ inline L2Policy l2_policy(Evict lines) {
  L2Policy policy;
  asm("{\n"
      "  .reg .pred p;\n"
      "  .reg .b64 other;\n"
      "  createpolicy.fractional.L2::evict_normal.b64 %0, 1.0;\n"
      "  createpolicy.fractional.L2::evict_first.b64 other, 1.0;\n"
      "  setp.eq.u32 p, %1, %2;\n"
      "  selp.b64 %0, other, %0, p;\n"
      "  createpolicy.fractional.L2::evict_last.b64 other, 1.0;\n"
      "  setp.eq.u32 p, %1, %3;\n"
      "  selp.b64 %0, other, %0, p;\n"
      "}"
      : "=&l"(policy.bits)
      : "r"(static_cast<std::uint32_t>(lines)), "n"(static_cast<int>(Evict::first)),
        "n"(static_cast<int>(Evict::last)));
  return policy;
}

__device__ inline uint4 load_once(const uint4* from, bool valid, L2Policy policy, std::uint32_t otherwise) {
  uint4 v = {otherwise, otherwise, otherwise, otherwise};
  asm volatile(
      "{\n"
      "  .reg .pred p;\n"
      "  setp.ne.u32 p, %5, 0;\n"
      "  @p ld.global.L1::no_allocate.L2::cache_hint.v4.b32 {%0, %1, %2, %3}, [%4], %6;\n"
      "}"
      : "+r"(v.x), "+r"(v.y), "+r"(v.z), "+r"(v.w)
      : "l"(__cvta_generic_to_global(from)), "r"(static_cast<std::uint32_t>(valid)), "l"(policy.bits));
  return v;
}
__device__ inline void store_if(uint4* to, const uint4& v, bool valid, L2Policy policy) {
  asm volatile(
      "{\n"
      "  .reg .pred p;\n"
      "  setp.ne.u32 p, %5, 0;\n"
      "  @p st.global.L2::cache_hint.v4.b32 [%4], {%0, %1, %2, %3}, %6;\n"
      "}" ::"r"(v.x),
      "r"(v.y), "r"(v.z), "r"(v.w), "l"(__cvta_generic_to_global(to)), "r"(static_cast<std::uint32_t>(valid)),
      "l"(policy.bits)
      : "memory");
}

/// Brings a line of global memory into L2. Harmless at any time: L2 is where all writes arrive.
__device__ inline void prefetch(const void* line) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(__cvta_generic_to_global(line)));
}

/// 2^x with a relative error of 2^-22; results below the normal numbers are 0.
__device__ inline float fast_exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

}  // namespace wick::cuda
