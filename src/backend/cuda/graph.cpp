#include "backend/cuda/graph.h"

#include <utility>

#include "backend/cuda/arena.h"
#include "backend/cuda/runtime.h"

namespace wick::cuda {
namespace {

class GraphRecording final : public Recording {
 public:
  explicit GraphRecording(Device device) : device_(device), arena_(device.index) {}
  ~GraphRecording() override {
    (void)cudaStreamSynchronize(stream(device_.index));  // a replay may still be at work in this memory
    if (executable_ != nullptr) (void)cudaGraphExecDestroy(executable_);
  }

  void capture(const std::function<void()>& work) {
    const cudaStream_t s = stream(device_.index);
    const ArenaScope scope(arena_);
    check(cudaStreamBeginCapture(s, cudaStreamCaptureModeRelaxed), "beginning a capture");
    cudaGraph_t graph = nullptr;
    try {
      work();
    } catch (...) {
      if (cudaStreamEndCapture(s, &graph) == cudaSuccess && graph != nullptr) (void)cudaGraphDestroy(graph);
      (void)cudaGetLastError();
      throw;
    }
    check(cudaStreamEndCapture(s, &graph), "ending a capture");
    const cudaError_t status = cudaGraphInstantiate(&executable_, graph, 0);
    (void)cudaGraphDestroy(graph);
    check(status, "making a graph");
    check(cudaGraphUpload(executable_, s), "bringing a graph to the device");
  }

  void replay() override {
    const WorkScope scope({"recorded graph"});
    check(cudaGraphLaunch(executable_, stream(device_.index)), "replaying a graph");
  }
  std::size_t reserved_bytes() const override { return arena_.stats().reserved; }

 private:
  Device device_;
  Arena arena_;
  cudaGraphExec_t executable_ = nullptr;
};

}  // namespace

std::unique_ptr<Recording> record(Device device, const std::function<void()>& work) {
  auto recording = std::make_unique<GraphRecording>(device);
  recording->capture(work);
  return recording;
}

}  // namespace wick::cuda
