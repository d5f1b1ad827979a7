#pragma once

// Timing of kernels by events on the device's stream, for the programs in this folder. Host code.

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "backend/cuda/runtime.h"

namespace wick::bench {

struct Times {
  double median = 0, low = 0, high = 0;  ///< microseconds
};

inline Times times_of(std::vector<double> values) {
  if (values.empty()) return {};
  std::sort(values.begin(), values.end());
  return {values[values.size() / 2], values.front(), values.back()};
}

class Event {
 public:
  Event() { cuda::check(cudaEventCreate(&event_), "an event"); }
  ~Event() { (void)cudaEventDestroy(event_); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;

  void record() { cuda::check(cudaEventRecord(event_, cuda::stream()), "an event"); }
  /// Microseconds from `start` to this one; waits for it.
  double since(const Event& start) {
    cuda::check(cudaEventSynchronize(event_), "waiting");
    float milliseconds = 0;
    cuda::check(cudaEventElapsedTime(&milliseconds, start.event_, event_), "a time");
    return 1e3 * static_cast<double>(milliseconds);
  }

 private:
  cudaEvent_t event_ = nullptr;
};

/// The time of one call of `run(set)`: all sets are recorded as one graph, which runs `repeats` times after a warm-up.
/// Give it sets that together pass the cache.
inline Times time_recorded(int sets, int repeats, const std::function<void(int)>& run) {
  const Device device{DeviceType::cuda, 0};
  const auto all = [&] {
    for (int set = 0; set < sets; ++set) run(set);
  };
  all();  // kernels are loaded outside of the recording
  backend(device).synchronize(device);
  const auto recording = backend(device).record(device, all);
  Event start;
  Event end;
  std::vector<double> times;
  for (int repeat = -1; repeat < repeats; ++repeat) {
    start.record();
    recording->replay();
    end.record();
    const double time = end.since(start) / sets;
    if (repeat >= 0) times.push_back(time);
  }
  return times_of(std::move(times));
}

/// The time that kernels named `name` take together in one call of `run`.
inline Times time_kernels(const std::string& name, int repeats, const std::function<void()>& run) {
  struct State {
    std::string name;
    bool on = false;
    std::vector<Event> starts = std::vector<Event>(256);
    std::vector<Event> ends = std::vector<Event>(256);
    std::size_t count = 0;
  };
  static State* state = nullptr;
  State mine;
  mine.name = name;
  state = &mine;
  run();
  cuda::profile_hooks() = {[](const cuda::Work& work) {
                             state->on = state->name == work.name && state->count < state->starts.size();
                             if (state->on) state->starts[state->count].record();
                           },
                           [] {
                             if (state->on) state->ends[state->count++].record();
                             state->on = false;
                           }};
  std::vector<double> times;
  for (int repeat = 0; repeat < repeats; ++repeat) {
    mine.count = 0;
    run();
    double total = 0;
    for (std::size_t i = 0; i < mine.count; ++i) total += mine.ends[i].since(mine.starts[i]);
    times.push_back(total);
  }
  cuda::profile_hooks() = {};
  state = nullptr;
  return times_of(std::move(times));
}

/// GB/s that a copy of `bytes` reads and writes together: what other bandwidths are a share of.
inline double copy_bandwidth(std::size_t bytes, int repeats) {
  const Device device{DeviceType::cuda, 0};
  const auto count = static_cast<std::int64_t>(bytes);
  const Tensor from = Tensor::zeros({count / 4}, DType::f32, device);
  const Tensor to = Tensor::empty({count / 4}, DType::f32, device);
  const Times times = time_recorded(1, repeats, [&](int) { to.copy_from(from); });
  return 2e-3 * static_cast<double>(bytes) / times.median;
}

}  // namespace wick::bench
