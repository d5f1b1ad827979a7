#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>

namespace wick::cuda {

/// Large copies from pageable host memory (mapped files): threads fill one of two pinned buffers while the other is on
/// its way, so that reading the file, copying and the bus all work at once.
class Staging {
 public:
  explicit Staging(int device) : device_(device) {}
  ~Staging() { release(); }
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;

  /// Smaller copies are as fast without.
  static constexpr std::size_t kWorthIt = 4U << 20;

  /// Returns when all of `from` has been read; it arrives at `to` in the order of the device's stream. False, and
  /// nothing is done, when the system has no pinned memory to give.
  bool copy(const std::byte* from, std::byte* to, std::size_t bytes);
  /// Waits for what is on its way and gives the pinned memory back.
  void release() noexcept;

 private:
  static constexpr std::size_t kBuffer = 32U << 20;
  struct Buffer {
    std::byte* data = nullptr;
    cudaEvent_t sent = nullptr;  // what was in it last has left
  };
  bool open();

  int device_;
  Buffer buffers_[2];
  int next_ = 0;
};

}  // namespace wick::cuda
