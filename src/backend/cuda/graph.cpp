#include "backend/cuda/graph.h"

#include <memory>
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

// Graphs know the addresses, so no memory goes back to the driver before all of them are gone.
class GraphMemory final : public RecordingMemory {
 public:
  explicit GraphMemory(int device) : arena(device, Arena::Keeps::all) {}
  std::size_t reserved_bytes() const override { return arena.stats().reserved; }

  Arena arena;
};

class GraphRecording final : public Recording {
 public:
  GraphRecording(Device device, std::shared_ptr<RecordingMemory> memory)
      : device_(device), memory_(std::static_pointer_cast<GraphMemory>(std::move(memory))) {}
  ~GraphRecording() override {
    (void)cudaStreamSynchronize(stream(device_.index));  // a replay may still be at work in this memory
    if (executable_ != nullptr) (void)cudaGraphExecDestroy(executable_);
  }

  void capture(const std::function<void()>& work) {
    const cudaStream_t s = stream(device_.index);
    const ArenaScope scope(memory_->arena);
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
    const std::unique_ptr<CUgraph_st, decltype(&cudaGraphDestroy)> recorded(graph, cudaGraphDestroy);
    Arena& cached = device_arena(device_.index);
    cached.retry_after_trim("making a graph", [&] {
      const cudaError_t status = cudaGraphInstantiate(&executable_, graph, 0);
      if (status != cudaSuccess) executable_ = nullptr;
      return status;
    });
    cached.retry_after_trim("bringing a graph to the device", [&] { return cudaGraphUpload(executable_, s); });
  }

  void replay() override {
    const auto launch = [this] {
      device_arena(device_.index).retry_after_trim("replaying a graph", [this] {
        return cudaGraphLaunch(executable_, stream(device_.index));
      });
    };
    EventRecorder* recorder = EventRecorder::current();
    if (recorder != nullptr && timed_ != nullptr) return recorder->replay(*timed_, launch);
    const WorkScope scope({"recorded graph"});
    launch();
  }

 private:
  Device device_;
  std::shared_ptr<GraphMemory> memory_;
  std::unique_ptr<TimedWorks> timed_;  // outlives the graph that has its events
  cudaGraphExec_t executable_ = nullptr;
};

}  // namespace

std::shared_ptr<RecordingMemory> recording_memory(Device device) { return std::make_shared<GraphMemory>(device.index); }

std::unique_ptr<Recording> record(Device device, const std::function<void()>& work,
                                  std::shared_ptr<RecordingMemory> memory) {
  auto recording = std::make_unique<GraphRecording>(device, std::move(memory));
  recording->capture(work);
  return recording;
}

}  // namespace wick::cuda
