#pragma once

// What the .cu files share: element types, 16-byte packs, reductions, launches. Device code.

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <utility>

#include "backend/cuda/runtime.h"
#include "wick/error.h"
#include "wick/tensor.h"

namespace wick::cuda {

/// Calls fn(T{}) with the device's type for f32, bf16 or f16.
template <class Fn>
decltype(auto) visit_narrow(DType dtype, Fn&& fn) {
  switch (dtype) {
    case DType::f32:
      return std::forward<Fn>(fn)(float{});
    case DType::bf16:
      return std::forward<Fn>(fn)(__nv_bfloat16{});
    case DType::f16:
      return std::forward<Fn>(fn)(__half{});
    default:
      throw Error(ErrorCode::invalid_argument, "expected f32, bf16 or f16, found " + std::string(to_string(dtype)));
  }
}
template <class Fn>
decltype(auto) visit_floating(DType dtype, Fn&& fn) {
  return dtype == DType::f64 ? std::forward<Fn>(fn)(double{}) : visit_narrow(dtype, std::forward<Fn>(fn));
}
template <class Fn>
decltype(auto) visit_any(DType dtype, Fn&& fn) {
  if (dtype == DType::i32) return std::forward<Fn>(fn)(std::int32_t{});
  if (dtype == DType::i64) return std::forward<Fn>(fn)(std::int64_t{});
  return visit_floating(dtype, std::forward<Fn>(fn));
}

/// The tensor's memory as the device's type.
template <class T>
T* pointer(const Tensor& t) {
  return t.defined() ? reinterpret_cast<T*>(t.raw()) : nullptr;
}

template <class T>
__host__ __device__ inline float to_float(T value) {
  return static_cast<float>(value);
}
template <class T>
__host__ __device__ inline T from_float(float value) {
  return static_cast<T>(value);
}
template <>
__host__ __device__ inline __nv_bfloat16 from_float<__nv_bfloat16>(float value) {
  return __float2bfloat16(value);
}
template <>
__host__ __device__ inline __half from_float<__half>(float value) {
  return __float2half(value);
}

/// `count` elements that are read and written as one access; 16 bytes by default.
template <class T, int kCount = 16 / static_cast<int>(sizeof(T))>
struct alignas(sizeof(T) * kCount) Pack {
  static constexpr int kSize = kCount;
  T values[kCount];
  __device__ T& operator[](int i) { return values[i]; }
  __device__ const T& operator[](int i) const { return values[i]; }
};
template <class T, int kCount = 16 / static_cast<int>(sizeof(T))>
__device__ inline Pack<T, kCount> load_pack(const T* from) {
  return *reinterpret_cast<const Pack<T, kCount>*>(from);
}
template <class T, int kCount>
__device__ inline void store_pack(T* to, const Pack<T, kCount>& pack) {
  *reinterpret_cast<Pack<T, kCount>*>(to) = pack;
}

/// True if every row of t starts on 16 bytes: dense columns, an aligned first element and row stride.
inline bool packs(const Tensor& rows, std::int64_t row_stride) {
  const auto bytes = static_cast<std::int64_t>(size_of(rows.dtype()));
  return reinterpret_cast<std::uintptr_t>(rows.raw()) % 16 == 0 && row_stride * bytes % 16 == 0;
}
/// The same of the rows of a matrix, or of more dimensions, or an undefined tensor.
inline bool packs(const Tensor& t) {
  if (!t.defined()) return true;
  bool all = packs(t, 0);
  for (int i = 0; i + 1 < t.rank(); ++i) all = all && packs(t, t.stride(i));
  return all;
}

__device__ inline float warp_sum(float value) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(0xffffffffU, value, offset);
  return value;
}
__device__ inline float warp_max(float value) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) value = fmaxf(value, __shfl_xor_sync(0xffffffffU, value, offset));
  return value;
}

/// The sum over a block of kThreads threads, in every thread, in a fixed order. `scratch` has kThreads / 32 elements
/// and may be used again at once.
template <int kThreads>
__device__ inline float block_sum(float value, float* scratch) {
  value = warp_sum(value);
  if constexpr (kThreads > 32) {
    __syncthreads();
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = value;
    __syncthreads();
    value = warp_sum(threadIdx.x % 32 < kThreads / 32 ? scratch[threadIdx.x % 32] : 0.0F);
  }
  return value;
}
template <int kThreads>
__device__ inline float block_max(float value, float* scratch) {
  value = warp_max(value);
  if constexpr (kThreads > 32) {
    __syncthreads();
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = value;
    __syncthreads();
    value = warp_max(threadIdx.x % 32 < kThreads / 32 ? scratch[threadIdx.x % 32] : -INFINITY);
  }
  return value;
}

/// Programmatic dependent launch (Hopper): waits for what the kernel before has written; nothing may be read of it
/// earlier. And: from here on the next kernel may start.
__device__ inline void wait_for_previous() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
__device__ inline void allow_next() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}

struct Launch {
  dim3 grid;
  dim3 block;
  std::size_t shared = 0;
  bool overlap = false;  ///< programmatic dependent launch: the kernel calls wait_for_previous()
  unsigned cluster = 1;  ///< blocks in a cluster (along x)
  bool packed = false;   ///< a cluster's blocks may share a multiprocessor
};

/// Queues a kernel on the stream of current_device(). Does nothing for an empty grid.
template <class... Parameters, class... Arguments>
void launch(const Work& work, void (*kernel)(Parameters...), const Launch& how, Arguments&&... arguments) {
  if (how.grid.x == 0 || how.grid.y == 0 || how.grid.z == 0) return;
  const WorkScope scope(work);
  cudaLaunchConfig_t config = {};
  config.gridDim = how.grid;
  config.blockDim = how.block;
  config.dynamicSmemBytes = how.shared;
  config.stream = stream();
  cudaLaunchAttribute attributes[3];
  unsigned count = 0;
  // A profile tells one kernel from the next; racecheck waits for one that has begun early.
  if (how.overlap && info().major >= 9 && work_listener() == nullptr && !under_racecheck()) {
    attributes[count].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[count++].val.programmaticStreamSerializationAllowed = 1;
  }
  if (how.cluster > 1) {
    attributes[count].id = cudaLaunchAttributeClusterDimension;
    attributes[count].val.clusterDim.x = how.cluster;
    attributes[count].val.clusterDim.y = 1;
    attributes[count++].val.clusterDim.z = 1;
    if (how.packed) {
      attributes[count].id = cudaLaunchAttributeClusterSchedulingPolicyPreference;
      attributes[count++].val.clusterSchedulingPolicyPreference = cudaClusterSchedulingPolicyLoadBalancing;
    }
  }
  config.attrs = attributes;
  config.numAttrs = count;
  if (how.shared > 48 * 1024) {
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(how.shared)),
          work.name);
  }
  check(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(std::forward<Arguments>(arguments))...), work.name);
}

inline unsigned blocks_for(std::int64_t count, std::int64_t per_block) {
  return static_cast<unsigned>((count + per_block - 1) / per_block);
}

}  // namespace wick::cuda
