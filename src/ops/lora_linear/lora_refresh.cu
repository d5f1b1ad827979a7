// All masters of an adapter into the borders of their weights in one launch: each block takes a stretch of one factor.
#include <cstring>
#include <vector>

#include "backend/cuda/kernels.cuh"
#include "ops/lora_linear/lora_refresh.h"

namespace wick::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kPack = 4;
constexpr int kStretch = 4096;  // elements of a block

struct Factor {
  const float* source;  // dense [count / columns, columns]
  void* target;
  std::int64_t target_stride;
  int count, columns;
  int first_block;
  float scale;
  int packed;  // four elements of a row lie side by side and aligned on both sides
  int unused;
};

template <class T>
__global__ __launch_bounds__(kThreads) void copy_all(const Factor* factors, int factor_count) {
  // The table is from before; the masters are what the optimizer has just written.
  int low = 0;
  int high = factor_count;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (factors[middle].first_block <= static_cast<int>(blockIdx.x) ? low : high) = middle;
  }
  const Factor f = factors[low];
  const int begin = (static_cast<int>(blockIdx.x) - f.first_block) * kStretch;
  const int end = min(begin + kStretch, f.count);
  T* const target = static_cast<T*>(f.target);
  wait_for_previous();
  allow_next();
  if (f.packed != 0) {
    for (int i = begin + static_cast<int>(threadIdx.x) * kPack; i < end; i += kThreads * kPack) {
      const Pack<float, kPack> from = load_pack<float, kPack>(f.source + i);
      Pack<T, kPack> to;
#pragma unroll
      for (int e = 0; e < kPack; ++e) to[e] = from_float<T>(from[e] * f.scale);
      store_pack(target + i / f.columns * f.target_stride + i % f.columns, to);
    }
  } else {
    for (int i = begin + static_cast<int>(threadIdx.x); i < end; i += kThreads) {
      target[i / f.columns * f.target_stride + i % f.columns] = from_float<T>(f.source[i] * f.scale);
    }
  }
}

template <class T>
Tensor make_table(std::span<const LoraWeight::Copy> copies) {
  std::vector<std::int32_t> words(copies.size() * sizeof(Factor) / sizeof(std::int32_t));
  int block = 0;
  for (std::size_t i = 0; i < copies.size(); ++i) {
    const auto& [source, target, scale] = copies[i];
    Factor f = {};
    f.source = pointer<float>(source);
    f.target = target.raw();
    f.target_stride = target.stride(0);
    f.count = static_cast<int>(source.numel());
    f.columns = static_cast<int>(source.size(1));
    f.first_block = block;
    f.scale = static_cast<float>(scale);
    const auto aligned = [](const void* address, std::size_t bytes) {
      return reinterpret_cast<std::uintptr_t>(address) % bytes == 0;
    };
    f.packed = f.columns % kPack == 0 && f.target_stride % kPack == 0 && aligned(f.source, kPack * sizeof(float)) &&
                       aligned(f.target, kPack * sizeof(T))
                   ? 1
                   : 0;
    block += static_cast<int>(blocks_for(f.count, kStretch));
    std::memcpy(words.data() + i * sizeof(Factor) / sizeof(std::int32_t), &f, sizeof f);
  }
  const auto count = static_cast<std::int64_t>(words.size());
  return Tensor::from(words, {count}).to(copies[0].target.device());
}

Declined copy_all_cuda(std::span<const LoraWeight::Copy> copies, Tensor& table) {
  const Tensor& first = copies[0].target;
  if (first.dtype() == DType::f64) return "f64";
  std::int64_t blocks = 0;
  double bytes = 0;
  for (const auto& [source, target, scale] : copies) {
    if (source.dtype() != DType::f32 || target.dtype() != first.dtype()) return "masters that are not f32";
    if (!source.is_contiguous() || target.stride(1) != 1) return "factors whose columns are not dense";
    if (source.numel() > (1 << 30) || source.numel() == 0) return "an empty factor, or one past 2^30 elements";
    blocks += blocks_for(source.numel(), kStretch);
    bytes += static_cast<double>(source.numel()) * static_cast<double>(sizeof(float) + size_of(first.dtype()));
  }
  if (blocks > (1 << 30)) return "factors past 2^42 elements";
  visit_narrow(first.dtype(), [&](auto zero) {
    using T = decltype(zero);
    if (!table.defined()) table = make_table<T>(copies);
    launch({"lora_refresh", bytes}, copy_all<T>,
           {.grid = dim3(static_cast<unsigned>(blocks)), .block = dim3(kThreads), .overlap = true},
           pointer<const Factor>(table), static_cast<int>(copies.size()));
  });
  return nullptr;
}

}  // namespace

void register_lora_refresh() { lora_copy_all.on(DeviceType::cuda) = copy_all_cuda; }

}  // namespace wick::cuda
