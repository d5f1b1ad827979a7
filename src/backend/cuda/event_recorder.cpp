#include "backend/cuda/event_recorder.h"

#include "backend/cuda/runtime.h"

namespace wick::cuda {
namespace {

class EventRecorder final : public WorkRecorder {
 public:
  explicit EventRecorder(int device) : stream_(stream(device)), device_(device) {
    while (events_.size() < kAtOnce) add_event();  // not in the middle of what is measured
  }
  ~EventRecorder() override {
    for (cudaEvent_t event : events_) (void)cudaEventDestroy(event);
  }

  // Work within work is one record.
  void begin(const Work& work) override {
    if (depth_++ > 0 || capturing(device_)) return;
    open_ = true;
    works_.push_back(work);
    while (events_.size() < 2 * works_.size()) add_event();
    check(cudaEventRecord(events_[2 * works_.size() - 2], stream_), "an event");
  }
  void end() noexcept override {
    if (--depth_ > 0 || !open_) return;
    open_ = false;
    const cudaError_t status = cudaEventRecord(events_[2 * works_.size() - 1], stream_);
    if (status_ == cudaSuccess) status_ = status;
  }

  std::vector<KernelRecord> take() override {
    check(status_, "an event");
    check(cudaStreamSynchronize(stream_), "waiting");
    std::vector<KernelRecord> records;
    records.reserve(works_.size());
    double start = 0;
    for (std::size_t i = 0; i < works_.size(); ++i) {
      // From one to the next: a float holds no long time exactly.
      if (i > 0) start += elapsed_us(2 * i - 2, 2 * i);
      records.push_back({work_name(works_[i]), start, elapsed_us(2 * i, 2 * i + 1), works_[i].bytes, works_[i].flops});
    }
    works_.clear();
    return records;
  }

 private:
  static constexpr std::size_t kAtOnce = 4096;

  void add_event() {
    cudaEvent_t event = nullptr;
    check(cudaEventCreate(&event), "making an event");
    events_.push_back(event);
  }
  double elapsed_us(std::size_t from, std::size_t to) const {
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, events_[from], events_[to]), "an event's time");
    return 1e3 * static_cast<double>(milliseconds);
  }

  cudaStream_t stream_;
  int device_;
  int depth_ = 0;
  bool open_ = false;
  cudaError_t status_ = cudaSuccess;
  std::vector<Work> works_;
  std::vector<cudaEvent_t> events_;  // two for each
};

}  // namespace

std::unique_ptr<WorkRecorder> make_event_recorder(Device device) {
  return std::make_unique<EventRecorder>(device.index);
}

}  // namespace wick::cuda
