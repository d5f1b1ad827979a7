#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>

namespace wick::cuda {

/// Copies from pageable host memory by way of two pinned buffers, so that nobody waits for the device: of large ones
/// (mapped files) threads fill one buffer while the other is on its way, so that reading the file, copying and the bus
/// all work at once; many small ones (batches) fit into a buffer.
class Staging {
 public:
  Staging(int device, std::size_t buffer_bytes) : device_(device), bytes_(buffer_bytes) {}
  ~Staging() { release(); }
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;

  static constexpr std::size_t kLarge = 4U << 20;  ///< copies from here on should have buffers of their own
  static constexpr std::size_t kLargeBuffer = 32U << 20;
  static constexpr std::size_t kSmallBuffer = 4U << 20;

  /// Returns when all of `from` has been read; it arrives at `to` in the order of the device's stream. False, and
  /// nothing is done, when the system has no pinned memory to give.
  bool copy(const std::byte* from, std::byte* to, std::size_t bytes);
  /// Waits for what is on its way and gives the pinned memory back.
  void release() noexcept;

 private:
  struct Buffer {
    std::byte* data = nullptr;
    cudaEvent_t sent = nullptr;  // what was in it last has left
  };
  bool open();

  int device_;
  std::size_t bytes_;  // of a buffer
  Buffer buffers_[2];
  int at_ = 0;            // the buffer that is being filled
  std::size_t used_ = 0;  // bytes of it
};

}  // namespace wick::cuda
