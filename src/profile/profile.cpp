#include "wick/profile.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <functional>

#include "backend/backend.h"
#include "backend/gemm.h"
#include "backend/recorder.h"
#include "core/fail.h"
#include "core/parallel.h"
#include "core/rng.h"
#include "core/work.h"

namespace wick {
namespace {

using Clock = std::chrono::steady_clock;

double microseconds(Clock::duration duration) { return std::chrono::duration<double, std::micro>(duration).count(); }

// The CPU's work is done when it returns.
class ClockRecorder final : public WorkRecorder {
 public:
  void begin(const Work& work) override {
    open_.push_back(records_.size());
    records_.push_back({work_name(work), 0, 0, work.bytes, work.flops});
    records_.back().start_us = microseconds(Clock::now() - start_);
  }
  void end() noexcept override {
    KernelRecord& record = records_[open_.back()];
    record.duration_us = microseconds(Clock::now() - start_) - record.start_us;
    open_.pop_back();
  }
  std::vector<KernelRecord> take() override {
    const double first = records_.empty() ? 0 : records_.front().start_us;
    for (KernelRecord& record : records_) record.start_us -= first;
    return std::move(records_);
  }

 private:
  Clock::time_point start_ = Clock::now();
  std::vector<KernelRecord> records_;
  std::vector<std::size_t> open_;
};

void synchronize(Device device) {
  if (device.type != DeviceType::cpu) backend(device).synchronize(device);
}

// The shortest of a few rounds, in seconds; a round on an accelerator is long enough to hide its launch.
double shortest(Device device, int rounds, int repeats, const std::function<void()>& work) {
  work();
  double best = 0;
  for (int round = 0; round < rounds; ++round) {
    synchronize(device);
    const Clock::time_point start = Clock::now();
    for (int i = 0; i < repeats; ++i) work();
    synchronize(device);
    const double seconds = microseconds(Clock::now() - start) / 1e6 / repeats;
    if (round == 0 || seconds < best) best = seconds;
  }
  return best;
}

}  // namespace

struct Profile::Impl {
  Device device;
  std::unique_ptr<WorkRecorder> recorder;
};

Profile::Profile(Device device) {
  if (work_listener() != nullptr) fail(ErrorCode::invalid_argument, "[profile] one is under way on this thread");
  synchronize(device);
  impl_ = std::make_unique<Impl>();
  impl_->device = device;
  if (device.type == DeviceType::cpu) {
    impl_->recorder = std::make_unique<ClockRecorder>();
  } else {
    impl_->recorder = backend(device).recorder(device);
  }
  work_listener() = impl_->recorder.get();
}

Profile::~Profile() {
  if (work_listener() == impl_->recorder.get()) work_listener() = nullptr;
}

std::vector<KernelRecord> Profile::stop() {
  if (work_listener() != impl_->recorder.get()) {
    fail(ErrorCode::invalid_argument, "[profile] it was stopped before, or belongs to another thread");
  }
  work_listener() = nullptr;
  synchronize(impl_->device);
  return impl_->recorder->take();
}

Ceilings measure_ceilings(Device device, DType dtype) {
  const bool host = device.type == DeviceType::cpu;
  Ceilings ceilings;
  {
    const std::int64_t bytes = std::int64_t{1} << (host ? 26 : 29);  // beyond any cache
    const Tensor from = Tensor::zeros({bytes / 4}, DType::f32, device);
    const Tensor to = Tensor::zeros({bytes / 4}, DType::f32, device);
    const auto copy = [&] {
      if (!host) return to.copy_from(from);
      parallel_for(bytes, 1 << 20, [&](std::int64_t begin, std::int64_t end) {
        std::memcpy(to.raw() + begin, from.raw() + begin, static_cast<std::size_t>(end - begin));
      });
    };
    ceilings.bytes_per_second = 2 * static_cast<double>(bytes) / shortest(device, 3, host ? 1 : 8, copy);
  }
  const std::int64_t n = host ? 1024 : 8192;
  // Numbers as a model has them: a product of zeros takes less power, and so runs at a higher clock.
  const Tensor a = Tensor::empty({n, n}, dtype, device);
  const Tensor b = Tensor::empty({n, n}, dtype, device);
  const Tensor c = Tensor::empty({n, n}, dtype, device);
  fill_uniform(a, -1, 1, 0, {RandomPurpose::initialisation, 0});
  fill_uniform(b, -1, 1, 0, {RandomPurpose::initialisation, 1});
  const double seconds = shortest(device, 3, host ? 1 : 8, [&] { gemm(a, b.transpose(0, 1), c); });
  const auto extent = static_cast<double>(n);
  ceilings.flops_per_second = 2 * extent * extent * extent / seconds;
  return ceilings;
}

}  // namespace wick
