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
    if (cudaHostAlloc(&data, kBuffer, cudaHostAllocDefault) != cudaSuccess ||
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
}

bool Staging::copy(const std::byte* from, std::byte* to, std::size_t bytes) {
  if (!open()) return false;
  const cudaStream_t s = stream(device_);
  for (std::size_t at = 0; at < bytes; at += kBuffer) {
    const Buffer& buffer = buffers_[next_];
    next_ = 1 - next_;
    const std::size_t count = std::min(kBuffer, bytes - at);
    check(cudaEventSynchronize(buffer.sent), "waiting for a copy");
    parallel_for(static_cast<std::int64_t>(count), 1 << 20, [&](std::int64_t begin, std::int64_t end) {
      std::memcpy(buffer.data + begin, from + at + begin, static_cast<std::size_t>(end - begin));
    });
    check(cudaMemcpyAsync(to + at, buffer.data, count, cudaMemcpyHostToDevice, s), "a copy");
    check(cudaEventRecord(buffer.sent, s), "a copy");
  }
  return true;
}

}  // namespace wick::cuda
