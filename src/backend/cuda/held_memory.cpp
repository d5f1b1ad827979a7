#include "backend/cuda/held_memory.h"

#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include <array>

namespace wick::cuda {

HeldMemory& held_memory(int device) {
  static std::array<HeldMemory, 64> all;
  return all.at(static_cast<std::size_t>(device));
}

std::string memory_text(int device) {
  const auto gib = [](std::size_t bytes) { return static_cast<double>(bytes) / static_cast<double>(1U << 30); };
  std::size_t available = 0;
  std::size_t total = 0;
  if (cudaMemGetInfo(&available, &total) != cudaSuccess) (void)cudaGetLastError();
  const HeldMemory& held = held_memory(device);
  return fmt::format("{:.2f} GiB in use here, {:.2f} GiB reserved, {:.2f} of {:.2f} GiB free",
                     gib(held.allocated.load()), gib(held.reserved.load()), gib(available), gib(total));
}

}  // namespace wick::cuda
