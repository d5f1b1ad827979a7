#include "backend/cuda/backend.h"

#include <map>
#include <mutex>
#include <utility>

#include "backend/cuda/arena.h"
#include "backend/cuda/event_recorder.h"
#include "backend/cuda/gemm.h"
#include "backend/cuda/graph.h"
#include "backend/cuda/libraries.h"
#include "backend/cuda/readback.h"
#include "backend/cuda/runtime.h"
#include "backend/cuda/staging.h"
#include "core/fail.h"

namespace wick {
namespace cuda {

#define WICK_CUDA_OP(name) void register_##name();
#include "backend/cuda/kernels.def"
#undef WICK_CUDA_OP

namespace {

bool on_host(const Tensor& t) { return t.device().type == DeviceType::cpu; }

class CudaBackend final : public Primitives {
 public:
  CudaBackend() {
#define WICK_CUDA_OP(name) register_##name();
#include "backend/cuda/kernels.def"
#undef WICK_CUDA_OP
  }

  std::string missing(Device device) const override {
    if (devices().empty()) return no_device_reason();
    const auto count = devices().size();
    if (static_cast<std::size_t>(device.index) >= count) return fmt::format("there are {}", count);
    const std::string& unusable = info(device.index).unusable;
    return unusable.empty() ? no_code_reason(device.index) : unusable;
  }

  std::vector<Description> describe() const override {
    std::vector<Description> all;
    for (const DeviceInfo& d : devices()) {
      all.push_back({.name = d.name,
                     .capability = fmt::format("{}.{}", d.major, d.minor),
                     .memory_bytes = d.memory_bytes,
                     .multiprocessors = d.multiprocessors,
                     .missing = missing({DeviceType::cuda, static_cast<int>(all.size())})});
    }
    return all;
  }
  std::vector<Library> libraries() const override { return cuda::libraries(); }

  void use(Device device) override { (void)stream(device.index); }
  Block allocate(std::size_t bytes, Device device) override {
    use(device);
    Arena::Block* block = current_arena(device.index).allocate(bytes);
    return {block->data, block};
  }
  void release(Block block, Device) noexcept override { Arena::release(static_cast<Arena::Block*>(block.handle)); }

  void synchronize(Device device) override { check(cudaStreamSynchronize(stream(device.index)), "waiting"); }

  std::shared_ptr<RecordingMemory> recording_memory(Device device) override { return cuda::recording_memory(device); }
  std::unique_ptr<Recording> record(Device device, const std::function<void()>& work,
                                    std::shared_ptr<RecordingMemory> memory) override {
    return cuda::record(device, work, memory != nullptr ? std::move(memory) : cuda::recording_memory(device));
  }
  std::unique_ptr<Readback> readback(Device device, std::size_t bytes) override { return make_readback(device, bytes); }
  std::unique_ptr<WorkRecorder> recorder(Device device) override { return std::make_unique<EventRecorder>(device); }
  void trim(Device device) override {
    {
      const std::scoped_lock lock(staging_mutex_);
      staging_.erase({device.index, true});
    }
    current_arena(device.index).trim();
  }
  Memory memory(Device device) override {
    (void)stream(device.index);
    Memory memory;
    check(cudaMemGetInfo(&memory.free, &memory.total), "asking for its memory");
    return memory;
  }

  void copy(const Tensor& from, const Tensor& to) override {
    const Device device = on_host(from) ? to.device() : from.device();
    use(device);
    if (!on_host(from) && !on_host(to)) {
      if (from.device() != to.device()) fail(ErrorCode::unsupported, "a copy between two CUDA devices");
      if (from.dtype() != to.dtype() || !from.is_contiguous() || !to.is_contiguous()) return copy_strided(from, to);
    }
    const std::size_t bytes = static_cast<std::size_t>(from.numel()) * size_of(from.dtype());
    if ((on_host(to) || on_host(from)) && capturing(device.index)) {
      fail(ErrorCode::unsupported, "a recording cannot wait for a copy from or to the host");
    }
    const WorkScope scope({"copy", 2.0 * static_cast<double>(bytes)});
    if (on_host(from) && bytes > 0) {
      const bool large = bytes >= Staging::kLarge;
      const std::scoped_lock lock(staging_mutex_);
      const auto found = staging_.try_emplace({device.index, large}, device.index,
                                              large ? Staging::kLargeBuffer : Staging::kSmallBuffer);
      if (found.first->second.copy(from.raw(), to.raw(), bytes)) return;
    }
    check(cudaMemcpyAsync(to.raw(), from.raw(), bytes, cudaMemcpyDefault, stream(device.index)), "a copy");
    // To the host the copy has to have arrived; from it, the source may go away as soon as this returns.
    if (on_host(to) || on_host(from)) check(cudaStreamSynchronize(stream(device.index)), "a copy");
  }

  void gemm(const Tensor& a, const Tensor& b, const Tensor& c, double alpha, double beta, const Tensor& bias) override {
    if (a.size(1) > 0) return cuda::gemm(a, b, c, alpha, beta, bias);
    if (bias.defined()) {
      copy(bias.expand(c.shape()), c);
    } else if (beta == 0) {
      fill(c, 0);
    } else {
      unary(Unary::mul, c, beta, c);
    }
  }

 private:
  std::mutex staging_mutex_;
  std::map<std::pair<int, bool>, Staging> staging_;  // by device, for large copies or small ones
};

}  // namespace
}  // namespace cuda

Backend* cuda_backend() {
  static cuda::CudaBackend cuda;
  return &cuda;
}

}  // namespace wick
