#include "backend/cuda/readback.h"

#include "backend/cuda/runtime.h"
#include "core/fail.h"

namespace wick::cuda {
namespace {

class EventReadback final : public Readback {
 public:
  EventReadback(Device device, std::size_t bytes) : device_(device), bytes_(bytes) {
    (void)stream(device.index);  // makes the device current
    check(cudaEventCreateWithFlags(&arrived_, cudaEventDisableTiming), "an event");
    const cudaError_t status = cudaMallocHost(&memory_, bytes);
    if (status != cudaSuccess) (void)cudaEventDestroy(arrived_);
    check(status, "page-locked memory");
  }
  ~EventReadback() override {
    (void)cudaEventSynchronize(arrived_);  // a copy may still be on its way
    (void)cudaFreeHost(memory_);
    (void)cudaEventDestroy(arrived_);
  }

  void send(const Tensor& from) override {
    if (static_cast<std::size_t>(from.numel()) * size_of(from.dtype()) != bytes_ || !from.is_contiguous()) {
      fail(ErrorCode::invalid_argument, "{} is read back, {} bytes were agreed on", describe(from), bytes_);
    }
    const cudaStream_t s = stream(device_.index);
    if (!write_to_host(from, memory_)) {
      const WorkScope scope({"read back", static_cast<double>(bytes_)});
      check(cudaMemcpyAsync(memory_, from.raw(), bytes_, cudaMemcpyDeviceToHost, s), "a copy to the host");
    }
    check(cudaEventRecord(arrived_, s), "an event");
  }
  const std::byte* receive() override {
    check(cudaEventSynchronize(arrived_), "waiting for a copy");
    return static_cast<const std::byte*>(memory_);
  }

 private:
  Device device_;
  std::size_t bytes_;
  cudaEvent_t arrived_ = nullptr;
  void* memory_ = nullptr;
};

}  // namespace

std::unique_ptr<Readback> make_readback(Device device, std::size_t bytes) {
  return std::make_unique<EventReadback>(device, bytes);
}

}  // namespace wick::cuda
