#pragma once

// Products on the tensor cores of Hopper as a group of four warps gives them: operands lie in shared memory, and the
// group goes on while they are made. Only code for sm_90a has them.

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <type_traits>

#include "backend/cuda/arrival.cuh"
#include "backend/cuda/tensor_map.h"

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define WICK_WARP_GROUPS
#endif

namespace wick::cuda {

/// A tile of rows of 128 bytes (64 elements of k), from 1024-byte boundaries on: chunk c of 16 bytes of row r lies at
/// c ^ (r % 8). `shared` is its address; 16 elements further along k the descriptor is greater by 2.
__device__ inline std::uint64_t tile_descriptor(std::uint32_t shared) {
  constexpr std::uint64_t kEightRows = 1024 >> 4;
  constexpr std::uint64_t kSwizzle128 = 1;
  return (shared & 0x3ffff) >> 4 | std::uint64_t{1} << 16 | kEightRows << 32 | kSwizzle128 << 62;
}

/// A matrix [k, columns] in boxes of 16 columns one behind the other, each of kRows rows of 32 bytes from a 256-byte
/// boundary on (narrow_boxes_of() of tensor_map.h). 16 rows further along k the descriptor is greater by 32.
template <int kRows = 64>
__device__ inline std::uint64_t narrow_descriptor(std::uint32_t shared) {
  constexpr std::uint64_t kNextBox = kRows * 32 >> 4;
  constexpr std::uint64_t kEightRows = 256 >> 4;
  constexpr std::uint64_t kSwizzle32 = 3;
  return (shared & 0x3ffff) >> 4 | kNextBox << 16 | kEightRows << 32 | kSwizzle32 << 62;
}

#define WICK_8(i)                                                                                             \
  "+f"(c[i]), "+f"(c[i + 1]), "+f"(c[i + 2]), "+f"(c[i + 3]), "+f"(c[i + 4]), "+f"(c[i + 5]), "+f"(c[i + 6]), \
      "+f"(c[i + 7])
#define WICK_NARROW_16(type)                                        \
  asm volatile(                                                     \
      "{\n"                                                         \
      "  .reg .pred p;\n"                                           \
      "  setp.ne.u32 p, %10, 0;\n"                                  \
      "  wgmma.mma_async.sync.aligned.m64n16k16.f32." type "." type \
      " "                                                           \
      "{%0, %1, %2, %3, %4, %5, %6, %7}, "                          \
      "%8, %9, p, 1, 1, %11, 1;\n"                                  \
      "}"                                                           \
      : WICK_8(0)                                                   \
      : "l"(a), "l"(b), "r"(static_cast<std::uint32_t>(add)), "n"(static_cast<int>(kA)))
#define WICK_NARROW_32(type)                                        \
  asm volatile(                                                     \
      "{\n"                                                         \
      "  .reg .pred p;\n"                                           \
      "  setp.ne.u32 p, %18, 0;\n"                                  \
      "  wgmma.mma_async.sync.aligned.m64n32k16.f32." type "." type \
      " "                                                           \
      "{%0, %1, %2, %3, %4, %5, %6, %7, "                           \
      "%8, %9, %10, %11, %12, %13, %14, %15}, "                     \
      "%16, %17, p, 1, 1, %19, 1;\n"                                \
      "}"                                                           \
      : WICK_8(0), WICK_8(8)                                        \
      : "l"(a), "l"(b), "r"(static_cast<std::uint32_t>(add)), "n"(static_cast<int>(kA)))

#define WICK_NARROW_48(type)                                        \
  asm volatile(                                                     \
      "{\n"                                                         \
      "  .reg .pred p;\n"                                           \
      "  setp.ne.u32 p, %26, 0;\n"                                  \
      "  wgmma.mma_async.sync.aligned.m64n48k16.f32." type "." type \
      " "                                                           \
      "{%0, %1, %2, %3, %4, %5, %6, %7, "                           \
      "%8, %9, %10, %11, %12, %13, %14, %15, "                      \
      "%16, %17, %18, %19, %20, %21, %22, %23}, "                   \
      "%24, %25, p, 1, 1, %27, 1;\n"                                \
      "}"                                                           \
      : WICK_8(0), WICK_8(8), WICK_8(16)                            \
      : "l"(a), "l"(b), "r"(static_cast<std::uint32_t>(add)), "n"(static_cast<int>(kA)))

/// How `a` lies in its tile: a row's elements of k side by side, or those of one k.
enum class Along { k = 0, rows = 1 };

/// c [64, kColumns] = a b, plus c where `add`; in c as multiply_add_wide() says. a is read through tile_descriptor();
/// where it lies along its rows, 16 elements further along k the descriptor is greater by 128. b [16, kColumns] through
/// narrow_descriptor().
template <class T, int kColumns, Along kA>
__device__ inline void multiply_add_narrow([[maybe_unused]] float (&c)[kColumns / 2], [[maybe_unused]] std::uint64_t a,
                                           [[maybe_unused]] std::uint64_t b, [[maybe_unused]] bool add) {
  static_assert(kColumns == 16 || kColumns == 32 || kColumns == 48);
#ifdef WICK_WARP_GROUPS
  constexpr bool kBf16 = std::is_same_v<T, __nv_bfloat16>;
  static_assert(kBf16 || std::is_same_v<T, __half>);
  if constexpr (kColumns == 16 && kBf16) WICK_NARROW_16("bf16");
  if constexpr (kColumns == 16 && !kBf16) WICK_NARROW_16("f16");
  if constexpr (kColumns == 32 && kBf16) WICK_NARROW_32("bf16");
  if constexpr (kColumns == 32 && !kBf16) WICK_NARROW_32("f16");
  if constexpr (kColumns == 48 && kBf16) WICK_NARROW_48("bf16");
  if constexpr (kColumns == 48 && !kBf16) WICK_NARROW_48("f16");
#endif
}
#undef WICK_NARROW_16
#undef WICK_NARROW_32
#undef WICK_NARROW_48
#undef WICK_8

/// Before the first product, and whenever registers that products use were written by anything else.
__device__ inline void begin_products() {
#ifdef WICK_WARP_GROUPS
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}
/// Closes a batch of products.
__device__ inline void close_products() {
#ifdef WICK_WARP_GROUPS
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}
/// Waits until at most the last kPending batches are under way.
template <int kPending>
__device__ inline void wait_products() {
#ifdef WICK_WARP_GROUPS
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
#endif
}
/// Keeps the compiler from moving what it does with c to the other side.
template <int kCount>
__device__ inline void settle(float (&c)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(c[i])::"memory");
}

/// A group's threads have kCount registers each from here on: fewer than before, or more, once others gave theirs.
template <int kCount>
__device__ inline void give_registers() {
#ifdef WICK_WARP_GROUPS
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kCount));
#endif
}
template <int kCount>
__device__ inline void take_registers() {
#ifdef WICK_WARP_GROUPS
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kCount));
#endif
}

/// What the threads of the block wrote to shared memory before a barrier that follows is there for products.
__device__ inline void show_to_products() {
#ifdef WICK_WARP_GROUPS
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

/// Brings a kernel's tensor map to where copies look for it. By one thread.
__device__ inline void prefetch([[maybe_unused]] const CUtensorMap& map) {
#ifdef WICK_WARP_GROUPS
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
#endif
}

/// Starts the copy of the box at a row and a column of a matrix (tensor_map.h) to `to`; `arrival` counts its bytes. By
/// one thread.
__device__ inline void load_box([[maybe_unused]] std::uint32_t to, [[maybe_unused]] const CUtensorMap& map,
                                [[maybe_unused]] int column, [[maybe_unused]] int row,
                                [[maybe_unused]] Arrival* arrival) {
#ifdef WICK_WARP_GROUPS
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(
          to),
      "l"(&map), "r"(column), "r"(row), "r"(shared_address(arrival))
      : "memory");
#endif
}

/// The same where L2 treats the lines by `policy`.
__device__ inline void load_box([[maybe_unused]] std::uint32_t to, [[maybe_unused]] const CUtensorMap& map,
                                [[maybe_unused]] int column, [[maybe_unused]] int row,
                                [[maybe_unused]] Arrival* arrival, [[maybe_unused]] L2Policy policy) {
#ifdef WICK_WARP_GROUPS
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1, {%2, "
      "%3}], [%4], %5;" ::"r"(to),
      "l"(&map), "r"(column), "r"(row), "r"(shared_address(arrival)), "l"(policy.bits)
      : "memory");
#endif
}

}  // namespace wick::cuda
