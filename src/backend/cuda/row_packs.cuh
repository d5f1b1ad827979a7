#pragma once

// Rows as the ops on rows read and write them: packs of 16 bytes.

#include <algorithm>
#include <type_traits>

#include "backend/cuda/kernels.cuh"
#include "backend/cuda/ptx.cuh"

namespace wick::cuda {

/// A matrix with dense columns.
template <class T>
struct Rows {
  T* data;
  std::int64_t stride;

  __device__ T* operator[](std::int64_t row) const { return data + row * stride; }
};
/// Null when t is undefined.
template <class T>
Rows<T> rows_of(const Tensor& t) {
  return {pointer<T>(t), t.defined() ? t.stride(0) : 0};
}

template <class T>
inline constexpr int kPackSize = 16 / static_cast<int>(sizeof(T));

template <class T>
__device__ inline uint4* as_packs(T* p) {
  return reinterpret_cast<uint4*>(p);
}
template <class T>
__device__ inline const uint4* as_packs(const T* p) {
  return reinterpret_cast<const uint4*>(p);
}

__device__ inline uint4 same_words(std::uint32_t word) { return {word, word, word, word}; }

/// The elements of a pack of T.
template <class T>
struct Elements {
  static constexpr int kSize = kPackSize<T>;
  float values[kSize];

  __device__ float& operator[](int i) { return values[i]; }
  __device__ float operator[](int i) const { return values[i]; }
};

template <class T>
__device__ inline Elements<T> unpack(const uint4& pack) {
  const std::uint32_t words[4] = {pack.x, pack.y, pack.z, pack.w};
  Elements<T> to;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if constexpr (std::is_same_v<T, float>) {
      to[i] = __uint_as_float(words[i]);
    } else if constexpr (std::is_same_v<T, __nv_bfloat16>) {
      to[2 * i] = __uint_as_float(words[i] << 16);
      to[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000U);
    } else {
      const float2 pair = __half22float2(*reinterpret_cast<const __half2*>(&words[i]));
      to[2 * i] = pair.x;
      to[2 * i + 1] = pair.y;
    }
  }
  return to;
}
template <class T>
__device__ inline uint4 pack(const Elements<T>& from) {
  std::uint32_t words[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if constexpr (std::is_same_v<T, float>) {
      words[i] = __float_as_uint(from[i]);
    } else if constexpr (std::is_same_v<T, __nv_bfloat16>) {
      const __nv_bfloat162 pair = __floats2bfloat162_rn(from[2 * i], from[2 * i + 1]);
      words[i] = *reinterpret_cast<const std::uint32_t*>(&pair);
    } else {
      const __half2 pair = __floats2half2_rn(from[2 * i], from[2 * i + 1]);
      words[i] = *reinterpret_cast<const std::uint32_t*>(&pair);
    }
  }
  return {words[0], words[1], words[2], words[3]};
}

/// A thread's packs of a row, from its first on; `otherwise` where there are none.
template <int kPacks, class Part>
__device__ inline void load_row(uint4 (&packs)[kPacks], const uint4* first, Part part, std::uint32_t otherwise = 0) {
#pragma unroll
  for (int p = 0; p < kPacks; ++p) packs[p] = load_once(first + part.offset(p), part.has(p), otherwise);
}
template <class Part>
__device__ inline void store_pack(uint4* first, int p, Part part, const uint4& pack) {
  store_if(first + part.offset(p), pack, part.has(p));
}

/// Has the compiler unpack the elements again where they are used next: keeping them takes twice the registers. It
/// cannot know that `zero` is 0, and for a second time needs another one.
template <class T, int kPacks>
__device__ inline void stay_packed(uint4 (&packs)[kPacks], std::uint32_t zero) {
  if constexpr (sizeof(T) < sizeof(float)) {
#pragma unroll
    for (uint4& p : packs) p = {p.x ^ zero, p.y ^ zero, p.z ^ zero, p.w ^ zero};
  }
}

/// The same of weights that a loop over rows uses: has them unpacked in each round, not before the loop.
template <int kPacks>
__device__ inline void unpack_again(uint4 (&packs)[kPacks]) {
#pragma unroll
  for (uint4& p : packs) asm volatile("" : "+r"(p.x), "+r"(p.y), "+r"(p.z), "+r"(p.w));
}

/// A thread's packs of a weight vector, or as many of them as it has in registers at a time: see RowPlan::weights.
template <int kSize, class Part>
__device__ inline void load_weights(uint4 (&group)[kSize], const uint4* first, int p, Part part) {
#pragma unroll
  for (int j = 0; j < kSize; ++j) group[j] = part.has(p + j) ? first[part.offset(p + j)] : uint4{};
}

/// Keeps the compiler from moving loads to the other side.
__device__ inline void keep_loads() { __syncwarp(); }

/// Brings the weights nearer while the kernel before is still running. One block does, for all: the same few lines
/// asked of L2 by every row take longer than the rows.
template <int kPacks, class Part>
__device__ inline void prefetch_weights(const uint4* first, Part part) {
  if (blockIdx.x != 0 || threadIdx.y != 0 || threadIdx.x % 8 != 0) return;
#pragma unroll
  for (int p = 0; p < kPacks; ++p) {
    if (part.has(p)) prefetch(first + part.offset(p));
  }
}

}  // namespace wick::cuda
