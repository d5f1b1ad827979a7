#pragma once

// Elementwise kernels over [rows, n] matrices with dense columns and any row strides: a function of floats for each
// element, 16 bytes of every matrix at a time.

#include "backend/cuda/kernels.cuh"
#include "ops/kernel_table.h"

namespace wick::cuda {

inline constexpr int kMapThreads = 256;
inline constexpr int kMapPacks = 2;  // of each input, in flight in every thread

template <class T, int kInputs, int kOutputs>
struct RowMap {
  const T* in[kInputs];
  std::int64_t in_stride[kInputs];
  T* out[kOutputs];  // null: not wanted. May be one of the inputs: what a thread writes, it alone has read before
  std::int64_t out_stride[kOutputs];
  unsigned packs;
  unsigned packs_per_row;
};

template <class T, int kPack, int kInputs, int kOutputs, class Fn>
__global__ void __launch_bounds__(kMapThreads) map_rows_kernel(RowMap<T, kInputs, kOutputs> map, Fn fn) {
  wait_for_previous();
  allow_next();
  const unsigned first = blockIdx.x * (kMapThreads * kMapPacks) + threadIdx.x;
  Pack<T, kPack> in[kMapPacks][kInputs];
  std::int64_t rows[kMapPacks];
  std::int64_t columns[kMapPacks];
#pragma unroll
  for (int p = 0; p < kMapPacks; ++p) {
    const unsigned pack = first + p * kMapThreads;
    if (pack >= map.packs) break;
    rows[p] = pack / map.packs_per_row;
    columns[p] = static_cast<std::int64_t>(pack % map.packs_per_row) * kPack;
#pragma unroll
    for (int i = 0; i < kInputs; ++i)
      in[p][i] = load_pack<T, kPack>(map.in[i] + rows[p] * map.in_stride[i] + columns[p]);
  }
#pragma unroll
  for (int p = 0; p < kMapPacks; ++p) {
    if (first + p * kMapThreads >= map.packs) return;
    Pack<T, kPack> out[kOutputs];
#pragma unroll
    for (int e = 0; e < kPack; ++e) {
      float from[kInputs];
      float to[kOutputs];
#pragma unroll
      for (int i = 0; i < kInputs; ++i) from[i] = to_float(in[p][i][e]);
      fn(from, to);
#pragma unroll
      for (int i = 0; i < kOutputs; ++i) out[i][e] = from_float<T>(to[i]);
    }
#pragma unroll
    for (int i = 0; i < kOutputs; ++i) {
      if (map.out[i] != nullptr) store_pack(map.out[i] + rows[p] * map.out_stride[i] + columns[p], out[i]);
    }
  }
}

/// fn(const float (&in)[kInputs], float (&out)[kOutputs]) on the device for every element. All matrices have the shape
/// and dtype of in[0]; outputs may be undefined: not wanted.
template <class T, int kInputs, int kOutputs, class Fn>
Declined map_rows(const char* name, const Tensor* const (&in)[kInputs], const Tensor* const (&out)[kOutputs], Fn fn) {
  constexpr int kPack = Pack<T>::kSize;
  const std::int64_t n = in[0]->size(1);
  bool packed = n % kPack == 0;
  RowMap<T, kInputs, kOutputs> map;
  Work work{.name = name};
  const auto note = [&](const Tensor& t) {
    packed = packed && packs(t);
    if (t.defined()) work.bytes += static_cast<double>(t.numel()) * sizeof(T);
    return t.defined() ? t.stride(0) : 0;
  };
  for (int i = 0; i < kInputs; ++i) {
    map.in[i] = pointer<T>(*in[i]);
    map.in_stride[i] = note(*in[i]);
  }
  for (int i = 0; i < kOutputs; ++i) {
    map.out[i] = pointer<T>(*out[i]);
    map.out_stride[i] = note(*out[i]);
  }
  const std::int64_t count = in[0]->numel() / (packed ? kPack : 1);
  if (count == 0) return nullptr;
  if (count >= std::int64_t{1} << 31) return "2^31 packs of elements and more";
  map.packs = static_cast<unsigned>(count);
  map.packs_per_row = static_cast<unsigned>(n / (packed ? kPack : 1));
  launch(work, packed ? map_rows_kernel<T, kPack, kInputs, kOutputs, Fn> : map_rows_kernel<T, 1, kInputs, kOutputs, Fn>,
         {.grid = blocks_for(count, kMapThreads * kMapPacks), .block = kMapThreads, .overlap = true}, map, fn);
  return nullptr;
}

}  // namespace wick::cuda
