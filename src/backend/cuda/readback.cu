#include "backend/cuda/readback.h"

#include "backend/cuda/kernels.cuh"

namespace wick::cuda {
namespace {

constexpr int kMaxWords = 256;

__global__ void copy_words(const std::uint32_t* from, std::uint32_t* to) { to[threadIdx.x] = from[threadIdx.x]; }

}  // namespace

bool write_to_host(const Tensor& from, void* page_locked) {
  const std::size_t bytes = static_cast<std::size_t>(from.numel()) * size_of(from.dtype());
  const auto words = static_cast<unsigned>(bytes / 4);
  if (bytes == 0 || bytes % 4 != 0 || bytes / 4 > kMaxWords) return false;
  if (reinterpret_cast<std::uintptr_t>(from.raw()) % 4 != 0) return false;
  launch({"read back", static_cast<double>(bytes)}, copy_words, {.grid = {1}, .block = {words}},
         pointer<std::uint32_t>(from), static_cast<std::uint32_t*>(page_locked));
  return true;
}

}  // namespace wick::cuda
