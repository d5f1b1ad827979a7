#pragma once

// Tensor core products of 16-bit types (sm_80 and up) and the copies that feed them.

#include "backend/cuda/kernels.cuh"
#include "backend/cuda/ptx.cuh"

namespace wick::cuda {

/// Starts a copy of the first `bytes` (0 to 16) of 16 bytes, and of zeros for the others; nothing is read when it is 0.
__device__ inline void copy_async16(void* to_shared, const void* from, int bytes) {
  asm volatile("cp.async.cg.shared.global.L2::256B [%0], [%1], 16, %2;" ::"r"(shared_address(to_shared)), "l"(from),
               "r"(bytes)
               : "memory");
}
/// The same of 4 bytes.
__device__ inline void copy_async4(void* to_shared, const void* from, int bytes) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(to_shared)), "l"(from), "r"(bytes)
               : "memory");
}
/// Closes a group: the copies that this thread has started since the last one.
__device__ inline void close_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/// Waits until at most the last kPending groups are under way; the other threads' copies need a barrier after it.
template <int kPending>
__device__ inline void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

/// Waits for all that this thread has started, in groups or not.
__device__ inline void wait_all_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

/// Four 8 x 8 matrices: lane i names row i % 8 of matrix i / 8. Matrix m goes to registers[m]: lane i gets its elements
/// 2 (i % 4) and 2 (i % 4) + 1 of row i / 4.
__device__ inline void load_matrices(unsigned (&registers)[4], unsigned row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(registers[0]), "=r"(registers[1]), "=r"(registers[2]), "=r"(registers[3])
               : "r"(row)
               : "memory");
}
__device__ inline void load_matrices(unsigned (&registers)[4], const void* row) {
  load_matrices(registers, shared_address(row));
}
/// The same with each matrix transposed.
__device__ inline void load_matrices_transposed(unsigned (&registers)[4], unsigned row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(registers[0]), "=r"(registers[1]), "=r"(registers[2]), "=r"(registers[3])
               : "r"(row)
               : "memory");
}
__device__ inline void load_matrices_transposed(unsigned (&registers)[4], const void* row) {
  load_matrices_transposed(registers, shared_address(row));
}

/// Two floats rounded to T, `low` in the lower half.
template <class T>
__device__ inline unsigned pack_pair(float low, float high);
template <>
__device__ inline unsigned pack_pair<__nv_bfloat16>(float low, float high) {
  unsigned pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}
template <>
__device__ inline unsigned pack_pair<__half>(float low, float high) {
  unsigned pair;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}

/// c [16, 8] += a [16, 16] b [16, 8], accumulated in f32. Of lane i: c[0], c[1] are columns 2 (i % 4) and the next of
/// row i / 4, c[2], c[3] those of row i / 4 + 8; a[0], a[1] hold the same columns of the same two rows, a[2], a[3]
/// those 8 further on; b0 rows 2 (i % 4) and the next of column i / 4, b1 those 8 further down.
template <class T>
__device__ inline void multiply_add(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1);
template <>
__device__ inline void multiply_add<__nv_bfloat16>(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
template <>
__device__ inline void multiply_add<__half>(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// 16 bytes of global memory that are read once and that nobody writes meanwhile: L1 is left to what is read again.
/// Zeros, and nothing is read, without `valid`. Such loads keep their order.
__device__ inline uint4 stream16(const void* from, bool valid) {
  uint4 v = {0, 0, 0, 0};
  asm volatile(
      "{\n"
      "  .reg .pred p;\n"
      "  setp.ne.u32 p, %5, 0;\n"
      "  @p ld.global.nc.L1::no_allocate.L2::256B.v4.b32 {%0, %1, %2, %3}, [%4];\n"
      "}"
      : "+r"(v.x), "+r"(v.y), "+r"(v.z), "+r"(v.w)
      : "l"(__cvta_generic_to_global(from)), "r"(static_cast<unsigned>(valid)));
  return v;
}

}  // namespace wick::cuda
