#pragma once

#include <atomic>
#include <cstddef>
#include <string>

namespace wick::cuda {

/// What all arenas of a device hold together, recordings' too.
struct HeldMemory {
  std::atomic<std::size_t> allocated = 0;  ///< in blocks that are in use
  std::atomic<std::size_t> reserved = 0;   ///< the driver's memory
};
HeldMemory& held_memory(int device);

/// "1.20 GiB in use here, 1.50 GiB reserved, 0.03 of 139.80 GiB free", for errors: of `device`, which is current.
std::string memory_text(int device);

}  // namespace wick::cuda
