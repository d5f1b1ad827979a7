#include "backend/cuda/event_recorder.h"

namespace wick::cuda {
namespace {

constexpr std::size_t kAtOnce = 4096;

cudaEvent_t make_event() {
  cudaEvent_t event = nullptr;
  check(cudaEventCreate(&event), "making an event");
  return event;
}

double elapsed_us(cudaEvent_t from, cudaEvent_t to) {
  float milliseconds = 0;
  check(cudaEventElapsedTime(&milliseconds, from, to), "an event's time");
  return 1e3 * static_cast<double>(milliseconds);
}

unsigned flags(bool recording) { return recording ? cudaEventRecordExternal : cudaEventRecordDefault; }

}  // namespace

TimedWorks::~TimedWorks() {
  for (cudaEvent_t event : events_) (void)cudaEventDestroy(event);
}

void TimedWorks::reserve(std::size_t works) {
  works_.reserve(works);
  while (events_.size() < 2 * works) events_.push_back(make_event());
}

void TimedWorks::begin(const Work& work, cudaStream_t stream, bool recording) {
  while (events_.size() < 2 * works_.size() + 2) events_.push_back(make_event());
  check(cudaEventRecordWithFlags(events_[2 * works_.size()], stream, flags(recording)), "an event");
  works_.push_back(work);
}

void TimedWorks::end(cudaStream_t stream, bool recording) noexcept {
  const cudaError_t status = cudaEventRecordWithFlags(after(works_.size() - 1), stream, flags(recording));
  if (status_ == cudaSuccess) status_ = status;
}

EventRecorder::EventRecorder(Device device)
    : device_(device.index), stream_(stream(device.index)), origin_(make_event()) {
  queued_.reserve(kAtOnce);  // not in the middle of what is measured
  check(cudaEventRecord(origin_, stream_), "an event");
}

EventRecorder::~EventRecorder() { (void)cudaEventDestroy(origin_); }

void EventRecorder::begin(const Work& work) {
  if (depth_ == 0) {
    const bool recording = capturing(device_);
    TimedWorks* works = recording ? recording_ : &queued_;
    if (works != nullptr) works->begin(work, stream_, recording);
    open_ = works;
  }
  depth_ += 1;
}

void EventRecorder::end() noexcept {
  depth_ -= 1;
  if (depth_ == 0 && open_ != nullptr) open_->end(stream_, open_ == recording_);
}

// From one event to the next, since a float holds no long time exactly.
void EventRecorder::read(const TimedWorks& works) {
  if (works.size() == 0) return;
  works.check_ends();
  check(cudaStreamSynchronize(stream_), "waiting");
  cudaEvent_t last = origin_;
  for (std::size_t i = 0; i < works.size(); ++i) {
    origin_us_ += elapsed_us(last, works.before(i));
    last = works.before(i);
    const Work& work = works.work(i);
    records_.push_back({work_name(work), origin_us_, elapsed_us(last, works.after(i)), work.bytes, work.flops});
  }
  origin_us_ += records_.back().duration_us;
  check(cudaEventRecord(origin_, stream_), "an event");
}

void EventRecorder::replay(const TimedWorks& works, const std::function<void()>& launch) {
  read(queued_);
  queued_.clear();
  launch();
  read(works);
}

std::vector<KernelRecord> EventRecorder::take() {
  read(queued_);
  queued_.clear();
  const double first = records_.empty() ? 0 : records_.front().start_us;
  for (KernelRecord& record : records_) record.start_us -= first;
  return std::move(records_);
}

}  // namespace wick::cuda
