#include "backend/cuda/staging.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "backend/cuda/runtime.h"
#include "core/parallel.h"

namespace wick::cuda {

bool Staging::open() {
  if (buffers_[0].data != nullptr) return true;
  (void)stream(device_);
  for (Buffer& buffer : buffers_) {
    void* data = nullptr;
    if (cudaHostAlloc(&data, bytes_, cudaHostAllocDefault) != cudaSuccess ||
        cudaEventCreateWithFlags(&buffer.sent, cudaEventDisableTiming) != cudaSuccess) {
      (void)cudaGetLastError();
      if (data != nullptr) (void)cudaFreeHost(data);
      release();
      return false;
    }
    buffer.data = static_cast<std::byte*>(data);
  }
  return true;
}

void Staging::release() noexcept {
  for (Buffer& buffer : buffers_) {
    if (buffer.sent != nullptr) {
      (void)cudaEventSynchronize(buffer.sent);
      (void)cudaEventDestroy(buffer.sent);
    }
    if (buffer.data != nullptr) (void)cudaFreeHost(buffer.data);
    buffer = {};
  }
  used_ = 0;
}

bool Staging::copy(const std::byte* from, std::byte* to, std::size_t bytes) {
  if (!open()) return false;
  constexpr std::size_t kAlignment = 256;
  const cudaStream_t s = stream(device_);
  for (std::size_t at = 0; at < bytes;) {
    if (used_ >= bytes_) {
      at_ = 1 - at_;
      used_ = 0;
      check(cudaEventSynchronize(buffers_[at_].sent), "waiting for a copy");
    }
    const Buffer& buffer = buffers_[at_];
    std::byte* const pinned = buffer.data + used_;
    const std::size_t count = std::min(bytes_ - used_, bytes - at);
    parallel_for(static_cast<std::int64_t>(count), 1 << 20, [&](std::int64_t begin, std::int64_t end) {
      std::memcpy(pinned + begin, from + at + begin, static_cast<std::size_t>(end - begin));
    });
    check(cudaMemcpyAsync(to + at, pinned, count, cudaMemcpyHostToDevice, s), "a copy");
    check(cudaEventRecord(buffer.sent, s), "a copy");
    used_ += (count + kAlignment - 1) / kAlignment * kAlignment;
    at += count;
  }
  return true;
}

}  // namespace wick::cuda
