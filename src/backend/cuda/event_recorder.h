#pragma once

#include <functional>
#include <vector>

#include "backend/cuda/runtime.h"
#include "backend/recorder.h"

namespace wick::cuda {

/// Pieces of work on a stream, with an event before and one after each.
class TimedWorks {
 public:
  TimedWorks() = default;
  TimedWorks(const TimedWorks&) = delete;
  TimedWorks& operator=(const TimedWorks&) = delete;
  ~TimedWorks();

  void reserve(std::size_t works);  ///< makes the events before they are needed
  /// On a stream that is recording a graph, the events become nodes of it, and each replay sets them.
  void begin(const Work& work, cudaStream_t stream, bool recording);
  void end(cudaStream_t stream, bool recording) noexcept;
  void clear() { works_.clear(); }  ///< keeps the events for others

  std::size_t size() const { return works_.size(); }
  const Work& work(std::size_t i) const { return works_[i]; }
  cudaEvent_t before(std::size_t i) const { return events_[2 * i]; }
  cudaEvent_t after(std::size_t i) const { return events_[2 * i + 1]; }
  /// Error(device) if an end() has failed.
  void check_ends() const { check(status_, "an event"); }

 private:
  std::vector<Work> works_;
  std::vector<cudaEvent_t> events_;
  cudaError_t status_ = cudaSuccess;
};

/// Times the work of one device.
class EventRecorder final : public WorkRecorder {
 public:
  explicit EventRecorder(Device device);
  ~EventRecorder() override;
  /// The calling thread's, if it is profiling a CUDA device.
  static EventRecorder* current() { return dynamic_cast<EventRecorder*>(work_listener()); }

  void begin(const Work& work) override;  ///< work within work is one record
  void end() noexcept override;
  std::vector<KernelRecord> take() override;

  /// While a graph is recorded: its work goes to `works`, whose events then belong to the graph. Null ends it.
  void record_into(TimedWorks* works) { recording_ = works; }
  /// Runs `launch`, which replays a graph, and takes the times of its works. The host waits for it; the time that
  /// reading takes is left out of the timeline.
  void replay(const TimedWorks& works, const std::function<void()>& launch);

 private:
  void read(const TimedWorks& works);

  int device_;
  cudaStream_t stream_;
  TimedWorks queued_;
  TimedWorks* recording_ = nullptr;
  TimedWorks* open_ = nullptr;  // where the work under way is
  int depth_ = 0;
  cudaEvent_t origin_ = nullptr;  // from which the next times are taken,
  double origin_us_ = 0;          // and when it was
  std::vector<KernelRecord> records_;
};

}  // namespace wick::cuda
