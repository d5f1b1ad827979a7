#include "backend/cuda/graph.h"

#include <utility>

#include "backend/cuda/arena.h"
#include "backend/cuda/event_recorder.h"
#include "backend/cuda/runtime.h"

namespace wick::cuda {
namespace {

// While a profile is under way, what a graph records gets events around it, in `works`.
class Timing {
 public:
  explicit Timing(std::unique_ptr<TimedWorks>& works) : recorder_(EventRecorder::current()) {
    if (recorder_ == nullptr) return;
    works = std::make_unique<TimedWorks>();
    recorder_->record_into(works.get());
  }
  ~Timing() {
    if (recorder_ != nullptr) recorder_->record_into(nullptr);
  }
  Timing(const Timing&) = delete;
  Timing& operator=(const Timing&) = delete;

 private:
  EventRecorder* recorder_;
};

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
    const Timing timing(timed_);
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
    const auto launch = [this] { check(cudaGraphLaunch(executable_, stream(device_.index)), "replaying a graph"); };
    EventRecorder* recorder = EventRecorder::current();
    if (recorder != nullptr && timed_ != nullptr) return recorder->replay(*timed_, launch);
    const WorkScope scope({"recorded graph"});
    launch();
  }
  std::size_t reserved_bytes() const override { return arena_.stats().reserved; }

 private:
  Device device_;
  Arena arena_;
  std::unique_ptr<TimedWorks> timed_;  // outlives the graph that has its events
  cudaGraphExec_t executable_ = nullptr;
};

}  // namespace

std::unique_ptr<Recording> record(Device device, const std::function<void()>& work) {
  auto recording = std::make_unique<GraphRecording>(device);
  recording->capture(work);
  return recording;
}

}  // namespace wick::cuda
