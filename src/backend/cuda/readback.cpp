#include "backend/cuda/readback.h"

#include "backend/cuda/runtime.h"
#include "core/fail.h"

namespace wick::cuda {
namespace {

// From here on a copy has a stream of its own: it takes longer than two streams' waiting for each other.
constexpr std::size_t kBeside = 64U << 10;

class EventReadback final : public Readback {
 public:
  EventReadback(Device device, std::size_t bytes) : device_(device), bytes_(bytes) {
    (void)stream(device.index);  // makes the device current
    try {
      check(cudaEventCreateWithFlags(&arrived_, cudaEventDisableTiming), "an event");
      if (bytes >= kBeside) {
        check(cudaEventCreateWithFlags(&ready_, cudaEventDisableTiming), "an event");
        check(cudaStreamCreateWithFlags(&beside_, cudaStreamNonBlocking), "making a stream");
      }
      check(cudaMallocHost(&memory_, bytes), fmt::format("{} bytes of page-locked memory", bytes).c_str());
    } catch (...) {
      release();
      throw;
    }
  }
  ~EventReadback() override { release(); }

  void send(const Tensor& from) override {
    const std::size_t bytes = static_cast<std::size_t>(from.numel()) * size_of(from.dtype());
    if (bytes > bytes_ || !from.is_contiguous()) {
      fail(ErrorCode::invalid_argument, "{} is read back, {} bytes were agreed on", describe(from), bytes_);
    }
    const cudaStream_t s = stream(device_.index);
    if (beside_ == nullptr) {
      if (!write_to_host(from, memory_)) {
        const WorkScope scope({"read back", static_cast<double>(bytes)});
        check(cudaMemcpyAsync(memory_, from.raw(), bytes, cudaMemcpyDeviceToHost, s), "a copy to the host");
      }
      check(cudaEventRecord(arrived_, s), "an event");
      return;
    }
    check(cudaEventRecord(ready_, s), "an event");
    check(cudaStreamWaitEvent(beside_, ready_), "an event");
    check(cudaMemcpyAsync(memory_, from.raw(), bytes, cudaMemcpyDeviceToHost, beside_), "a copy to the host");
    check(cudaEventRecord(arrived_, beside_), "an event");
    sent_ = from;  // its memory must not be handed out again before it has left
  }
  const std::byte* receive() override {
    check(cudaEventSynchronize(arrived_), "waiting for a copy");
    sent_ = {};
    return static_cast<const std::byte*>(memory_);
  }

 private:
  void release() noexcept {
    if (arrived_ != nullptr) {
      (void)cudaEventSynchronize(arrived_);  // a copy may still be on its way
      (void)cudaEventDestroy(arrived_);
    }
    if (memory_ != nullptr) (void)cudaFreeHost(memory_);
    if (ready_ != nullptr) (void)cudaEventDestroy(ready_);
    if (beside_ != nullptr) (void)cudaStreamDestroy(beside_);
  }

  Device device_;
  std::size_t bytes_;
  cudaEvent_t arrived_ = nullptr;
  cudaEvent_t ready_ = nullptr;
  cudaStream_t beside_ = nullptr;  // null: the device's own stream
  void* memory_ = nullptr;
  Tensor sent_;
};

}  // namespace

std::unique_ptr<Readback> make_readback(Device device, std::size_t bytes) {
  return std::make_unique<EventReadback>(device, bytes);
}

}  // namespace wick::cuda
