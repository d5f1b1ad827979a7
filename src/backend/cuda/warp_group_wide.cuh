#pragma once

// Products of warp_group.cuh that are 16, 32, 48, 64, 128, 192, 224 or 256 columns wide, with the left side in shared
// memory or in registers. With 256 columns a group has half of a multiprocessor's registers in its sums: nothing on
// Hopper reads less shared memory for a product.

#include "backend/cuda/mma.cuh"
#include "backend/cuda/warp_group.cuh"

namespace wick::cuda {

/// How the right side of a product lies in shared memory: rows of what becomes columns, k side by side (a weight [n, k]
/// as a layer reads it), or rows of one k (the same weight, backward).
enum class Right { along_k = 0, along_columns = 1 };

/// The right side along columns: boxes of 64 columns one behind the other, each of kRows rows of k of 128 bytes,
/// swizzled as tile_descriptor() says. 16 rows further along k the descriptor is greater by 128.
template <int kRows>
__device__ inline std::uint64_t wide_descriptor(std::uint32_t shared) {
  constexpr std::uint64_t kNextBox = kRows * 128 >> 4;
  constexpr std::uint64_t kEightRows = 1024 >> 4;
  constexpr std::uint64_t kSwizzle128 = 1;
  return (shared & 0x3ffff) >> 4 | kNextBox << 16 | kEightRows << 32 | kSwizzle128 << 62;
}

#define WICK_C8(i)                                                                                            \
  "+f"(c[i]), "+f"(c[i + 1]), "+f"(c[i + 2]), "+f"(c[i + 3]), "+f"(c[i + 4]), "+f"(c[i + 5]), "+f"(c[i + 6]), \
      "+f"(c[i + 7])
#define WICK_TILE_16(type)                                             \
  asm volatile(                                                        \
      "{\n.reg .pred p;\nsetp.ne.u32 p, %10, 0;\n"                     \
      "wgmma.mma_async.sync.aligned.m64n16k16.f32." type "." type      \
      " {%0, %1, %2, %3, %4, %5, %6, %7}, %8, %9, p, 1, 1, 0, %11;\n}" \
      : WICK_C8(0)                                                     \
      : "l"(a), "l"(b), "r"(static_cast<std::uint32_t>(add)), "n"(static_cast<int>(kRight)))
#define WICK_TILE_32(type)                                                                                     \
  asm volatile(                                                                                                \
      "{\n.reg .pred p;\nsetp.ne.u32 p, %18, 0;\n"                                                             \
      "wgmma.mma_async.sync.aligned.m64n32k16.f32." type "." type                                              \
      " {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}, %16, %17, p, 1, 1, 0, %19;\n}" \
      : WICK_C8(0), WICK_C8(8)                                                                                 \
      : "l"(a), "l"(b), "r"(static_cast<std::uint32_t>(add)), "n"(static_cast<int>(kRight)))
#define WICK_TILE_48(type)                                                                                          \
  asm volatile(                                                                                                     \
      "{\n.reg .pred p;\nsetp.ne.u32 p, %26, 0;\n"                                                                  \
      "wgmma.mma_async.sync.aligned.m64n48k16.f32." type "." type                                                   \
      " {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, " \
      "%23}, %24, %25, p, 1, 1, 0, %27;\n}"                                                                         \
      : WICK_C8(0), WICK_C8(8), WICK_C8(16)                                                                         \
      : "l"(a), "l"(b), "r"(static_cast<std::uint32_t>(add)), "n"(static_cast<int>(kRight)))
#define WICK_NAMES_32                                                      \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define WICK_SUMS_32 WICK_C8(0), WICK_C8(8), WICK_C8(16), WICK_C8(24)
#define WICK_NAMES_64                                                                \
  WICK_NAMES_32                                                                      \
  ", "                                                                               \
  "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
  "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define WICK_SUMS_64 WICK_SUMS_32, WICK_C8(32), WICK_C8(40), WICK_C8(48), WICK_C8(56)
#define WICK_NAMES_96                                                                \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "           \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
  "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
  "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, " \
  "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, " \
  "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define WICK_SUMS_96                                                                                                 \
  WICK_C8(0), WICK_C8(8), WICK_C8(16), WICK_C8(24), WICK_C8(32), WICK_C8(40), WICK_C8(48), WICK_C8(56), WICK_C8(64), \
      WICK_C8(72), WICK_C8(80), WICK_C8(88)
#define WICK_NAMES_112 \
  WICK_NAMES_96        \
  ", "                 \
  "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111"
#define WICK_SUMS_112 WICK_SUMS_96, WICK_C8(96), WICK_C8(104)
#define WICK_NAMES_128 \
  WICK_NAMES_112       \
  ", "                 \
  "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define WICK_SUMS_128 WICK_SUMS_112, WICK_C8(112), WICK_C8(120)
#define WICK_TILE_64(type)                                                           \
  asm volatile(                                                                      \
      "{\n.reg .pred p;\nsetp.ne.u32 p, %34, 0;\n"                                   \
      "wgmma.mma_async.sync.aligned.m64n64k16.f32." type "." type " {" WICK_NAMES_32 \
      "}, %32, %33, p, 1, 1, 0, %35;\n}"                                             \
      : WICK_SUMS_32                                                                 \
      : "l"(a), "l"(b), "r"(static_cast<std::uint32_t>(add)), "n"(static_cast<int>(kRight)))
#define WICK_HELD_64(type)                                                           \
  asm volatile(                                                                      \
      "{\n.reg .pred p;\nsetp.eq.u32 p, 0, 0;\n"                                     \
      "wgmma.mma_async.sync.aligned.m64n64k16.f32." type "." type " {" WICK_NAMES_32 \
      "}, {%32, %33, %34, %35}, %36, p, 1, 1, %37;\n}"                               \
      : WICK_SUMS_32                                                                 \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(static_cast<int>(kRight)))
#define WICK_TILE_128(type)                                                           \
  asm volatile(                                                                       \
      "{\n.reg .pred p;\nsetp.ne.u32 p, %66, 0;\n"                                    \
      "wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type " {" WICK_NAMES_64 \
      "}, %64, %65, p, 1, 1, 0, %67;\n}"                                              \
      : WICK_SUMS_64                                                                  \
      : "l"(a), "l"(b), "r"(static_cast<std::uint32_t>(add)), "n"(static_cast<int>(kRight)))
#define WICK_HELD_128(type)                                                           \
  asm volatile(                                                                       \
      "{\n.reg .pred p;\nsetp.eq.u32 p, 0, 0;\n"                                      \
      "wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type " {" WICK_NAMES_64 \
      "}, {%64, %65, %66, %67}, %68, p, 1, 1, %69;\n}"                                \
      : WICK_SUMS_64                                                                  \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(static_cast<int>(kRight)))
#define WICK_TILE_192(type)                                                           \
  asm volatile(                                                                       \
      "{\n.reg .pred p;\nsetp.ne.u32 p, %98, 0;\n"                                    \
      "wgmma.mma_async.sync.aligned.m64n192k16.f32." type "." type " {" WICK_NAMES_96 \
      "}, %96, %97, p, 1, 1, 0, %99;\n}"                                              \
      : WICK_SUMS_96                                                                  \
      : "l"(a), "l"(b), "r"(static_cast<std::uint32_t>(add)), "n"(static_cast<int>(kRight)))
#define WICK_HELD_192(type)                                                           \
  asm volatile(                                                                       \
      "{\n.reg .pred p;\nsetp.eq.u32 p, 0, 0;\n"                                      \
      "wgmma.mma_async.sync.aligned.m64n192k16.f32." type "." type " {" WICK_NAMES_96 \
      "}, {%96, %97, %98, %99}, %100, p, 1, 1, %101;\n}"                              \
      : WICK_SUMS_96                                                                  \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(static_cast<int>(kRight)))
#define WICK_TILE_224(type)                                                            \
  asm volatile(                                                                        \
      "{\n.reg .pred p;\nsetp.ne.u32 p, %114, 0;\n"                                    \
      "wgmma.mma_async.sync.aligned.m64n224k16.f32." type "." type " {" WICK_NAMES_112 \
      "}, %112, %113, p, 1, 1, 0, %115;\n}"                                            \
      : WICK_SUMS_112                                                                  \
      : "l"(a), "l"(b), "r"(static_cast<std::uint32_t>(add)), "n"(static_cast<int>(kRight)))
#define WICK_HELD_224(type)                                                            \
  asm volatile(                                                                        \
      "{\n.reg .pred p;\nsetp.eq.u32 p, 0, 0;\n"                                       \
      "wgmma.mma_async.sync.aligned.m64n224k16.f32." type "." type " {" WICK_NAMES_112 \
      "}, {%112, %113, %114, %115}, %116, p, 1, 1, %117;\n}"                           \
      : WICK_SUMS_112                                                                  \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(static_cast<int>(kRight)))
#define WICK_TILE_256(type)                                                            \
  asm volatile(                                                                        \
      "{\n.reg .pred p;\nsetp.ne.u32 p, %130, 0;\n"                                    \
      "wgmma.mma_async.sync.aligned.m64n256k16.f32." type "." type " {" WICK_NAMES_128 \
      "}, %128, %129, p, 1, 1, 0, %131;\n}"                                            \
      : WICK_SUMS_128                                                                  \
      : "l"(a), "l"(b), "r"(static_cast<std::uint32_t>(add)), "n"(static_cast<int>(kRight)))
#define WICK_HELD_256(type)                                                            \
  asm volatile(                                                                        \
      "{\n.reg .pred p;\nsetp.eq.u32 p, 0, 0;\n"                                       \
      "wgmma.mma_async.sync.aligned.m64n256k16.f32." type "." type " {" WICK_NAMES_128 \
      "}, {%128, %129, %130, %131}, %132, p, 1, 1, %133;\n}"                           \
      : WICK_SUMS_128                                                                  \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(static_cast<int>(kRight)))

/// c [64, kColumns] = a b over 16 elements of k, plus c where `add`; a through tile_descriptor(), b through it or
/// wide_descriptor(). Thread i of the group has columns 8 n + 2 (i % 4) + e of rows 16 (i / 32) + i % 32 / 4 + 8 h in
/// c[4 n + 2 h + e]. It is there, and may be looked at, after wait_products().
template <class T, int kColumns, Right kRight>
__device__ inline void multiply_add_wide([[maybe_unused]] float (&c)[kColumns / 2], [[maybe_unused]] std::uint64_t a,
                                         [[maybe_unused]] std::uint64_t b, [[maybe_unused]] bool add) {
  static_assert(kColumns == 16 || kColumns == 32 || kColumns == 48 || kColumns == 64 || kColumns == 128 ||
                kColumns == 192 || kColumns == 224 || kColumns == 256);
  constexpr bool kBf16 = std::is_same_v<T, __nv_bfloat16>;
  static_assert(kBf16 || std::is_same_v<T, __half>);
#ifdef WICK_WARP_GROUPS
  if constexpr (kColumns == 16 && kBf16) WICK_TILE_16("bf16");
  if constexpr (kColumns == 16 && !kBf16) WICK_TILE_16("f16");
  if constexpr (kColumns == 32 && kBf16) WICK_TILE_32("bf16");
  if constexpr (kColumns == 32 && !kBf16) WICK_TILE_32("f16");
  if constexpr (kColumns == 48 && kBf16) WICK_TILE_48("bf16");
  if constexpr (kColumns == 48 && !kBf16) WICK_TILE_48("f16");
  if constexpr (kColumns == 64 && kBf16) WICK_TILE_64("bf16");
  if constexpr (kColumns == 64 && !kBf16) WICK_TILE_64("f16");
  if constexpr (kColumns == 128 && kBf16) WICK_TILE_128("bf16");
  if constexpr (kColumns == 128 && !kBf16) WICK_TILE_128("f16");
  if constexpr (kColumns == 192 && kBf16) WICK_TILE_192("bf16");
  if constexpr (kColumns == 192 && !kBf16) WICK_TILE_192("f16");
  if constexpr (kColumns == 224 && kBf16) WICK_TILE_224("bf16");
  if constexpr (kColumns == 224 && !kBf16) WICK_TILE_224("f16");
  if constexpr (kColumns == 256 && kBf16) WICK_TILE_256("bf16");
  if constexpr (kColumns == 256 && !kBf16) WICK_TILE_256("f16");
#endif
}

/// c += a b, with a [64, 16] in registers: what fragments_of() makes of the sums of a product 16 columns wide.
template <class T, int kColumns, Right kRight>
__device__ inline void multiply_add_held([[maybe_unused]] float (&c)[kColumns / 2],
                                         [[maybe_unused]] const std::uint32_t (&a)[4],
                                         [[maybe_unused]] std::uint64_t b) {
  static_assert(kColumns == 64 || kColumns == 128 || kColumns == 192 || kColumns == 224 || kColumns == 256);
  constexpr bool kBf16 = std::is_same_v<T, __nv_bfloat16>;
  static_assert(kBf16 || std::is_same_v<T, __half>);
#ifdef WICK_WARP_GROUPS
  if constexpr (kColumns == 64 && kBf16) WICK_HELD_64("bf16");
  if constexpr (kColumns == 64 && !kBf16) WICK_HELD_64("f16");
  if constexpr (kColumns == 128 && kBf16) WICK_HELD_128("bf16");
  if constexpr (kColumns == 128 && !kBf16) WICK_HELD_128("f16");
  if constexpr (kColumns == 192 && kBf16) WICK_HELD_192("bf16");
  if constexpr (kColumns == 192 && !kBf16) WICK_HELD_192("f16");
  if constexpr (kColumns == 224 && kBf16) WICK_HELD_224("bf16");
  if constexpr (kColumns == 224 && !kBf16) WICK_HELD_224("f16");
  if constexpr (kColumns == 256 && kBf16) WICK_HELD_256("bf16");
  if constexpr (kColumns == 256 && !kBf16) WICK_HELD_256("f16");
#endif
}
#undef WICK_TILE_16
#undef WICK_TILE_32
#undef WICK_TILE_48
#undef WICK_TILE_64
#undef WICK_HELD_64
#undef WICK_TILE_128
#undef WICK_HELD_128
#undef WICK_TILE_192
#undef WICK_HELD_192
#undef WICK_TILE_224
#undef WICK_HELD_224
#undef WICK_TILE_256
#undef WICK_HELD_256
#undef WICK_NAMES_32
#undef WICK_SUMS_32
#undef WICK_NAMES_64
#undef WICK_SUMS_64
#undef WICK_NAMES_96
#undef WICK_SUMS_96
#undef WICK_NAMES_112
#undef WICK_SUMS_112
#undef WICK_NAMES_128
#undef WICK_SUMS_128
#undef WICK_C8

/// 16 columns of a group's sums [64, ...], which begin at `sums`, rounded, as the left side of a product.
template <class T>
__device__ inline void fragments_of(const float* sums, std::uint32_t (&a)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) a[i] = pack_pair<T>(sums[2 * i], sums[2 * i + 1]);
}

/// Four 8 x 8 matrices to shared memory, the reverse of load_matrices(): lane i names the place of row i % 8 of matrix
/// i / 8.
__device__ inline void store_matrices([[maybe_unused]] std::uint32_t row, [[maybe_unused]] const unsigned (&words)[4]) {
#ifdef WICK_WARP_GROUPS
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(row), "r"(words[0]),
               "r"(words[1]), "r"(words[2]), "r"(words[3])
               : "memory");
#endif
}

/// A barrier of one group of four warps; `group` is below 14.
__device__ inline void group_barrier(int group) { asm volatile("bar.sync %0, 128;" ::"r"(group + 1) : "memory"); }

/// Starts the copy of a box in shared memory to where it belongs in the matrix, but for what lies outside of it. By one
/// thread, after show_to_products() by those who wrote the box and a barrier.
__device__ inline void store_box([[maybe_unused]] const CUtensorMap& map, [[maybe_unused]] int column,
                                 [[maybe_unused]] int row, [[maybe_unused]] std::uint32_t from) {
#ifdef WICK_WARP_GROUPS
  asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%1, %2}], [%3];" ::"l"(&map), "r"(column),
               "r"(row), "r"(from)
               : "memory");
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
#endif
}
/// Waits until of the boxes that this thread stored at most the last kPending are still read.
template <int kPending>
__device__ inline void wait_stores_read() {
#ifdef WICK_WARP_GROUPS
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(kPending) : "memory");
#endif
}
/// Waits until all of them are written.
__device__ inline void wait_stores() {
#ifdef WICK_WARP_GROUPS
  asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
#endif
}

}  // namespace wick::cuda
