#pragma once

// Timing of work queued on the GPU, by events on its stream. Header only, shared by the programs in this folder.

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdio>
#include <exception>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "backend/cuda/runtime.h"
#include "core/fail.h"
#include "core/rng.h"

namespace wick::bench {

struct Spread {
  double median = 0, low = 0, high = 0;
};

inline Spread spread(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return {values[values.size() / 2], values.front(), values.back()};
}

struct Work {
  std::function<void()> run;
  bool graph = true;  ///< recorded once and replayed, else launched anew each time
};

/// Microseconds that each work takes: `repeats` times they are run in turn, each `rounds` times between two events.
inline std::vector<Spread> time_in_turn(Device device, const std::vector<Work>& works, int repeats, int rounds) {
  const cudaStream_t stream = cuda::stream(device.index);
  cudaEvent_t before = nullptr;
  cudaEvent_t after = nullptr;
  cuda::check(cudaEventCreate(&before), "an event");
  cuda::check(cudaEventCreate(&after), "an event");
  std::vector<std::unique_ptr<Recording>> recordings;
  for (const Work& work : works) {
    work.run();  // plans are made and kernels loaded outside of the recording and of the times
    backend(device).synchronize(device);
    recordings.push_back(work.graph ? backend(device).record(device, work.run) : nullptr);
  }
  std::vector<std::vector<double>> times(works.size());
  for (int repeat = -1; repeat < repeats; ++repeat) {  // the first is a warm-up
    for (std::size_t i = 0; i < works.size(); ++i) {
      cuda::check(cudaEventRecord(before, stream), "an event");
      for (int round = 0; round < rounds; ++round) {
        recordings[i] != nullptr ? recordings[i]->replay() : works[i].run();
      }
      cuda::check(cudaEventRecord(after, stream), "an event");
      cuda::check(cudaEventSynchronize(after), "waiting");
      float milliseconds = 0;
      cuda::check(cudaEventElapsedTime(&milliseconds, before, after), "a time");
      if (repeat >= 0) times[i].push_back(1e3 * milliseconds / rounds);
    }
  }
  (void)cudaEventDestroy(before);
  (void)cudaEventDestroy(after);
  std::vector<Spread> result;
  for (const auto& each : times) result.push_back(spread(each));
  return result;
}

/// Uniform random numbers of standard deviation `deviation`, each call others.
inline Tensor random(const Shape& shape, DType dtype, Device device, double deviation = 1) {
  static std::uint32_t index = 0;
  Tensor t = Tensor::empty(shape, dtype, device);
  const double limit = deviation * 1.7320508;
  fill_uniform(t, -limit, limit, 1, {RandomPurpose::initialisation, index++});
  return t;
}

/// i32 ids in [0, limit).
inline Tensor random_ids(std::int64_t count, std::int64_t limit, Device device) {
  std::vector<std::int32_t> ids(static_cast<std::size_t>(count));
  std::uint64_t state = 1;
  for (std::int32_t& id : ids) {
    state = state * 6364136223846793005ULL + 1442695040888963407ULL;
    id = static_cast<std::int32_t>((state >> 33) % static_cast<std::uint64_t>(limit));
  }
  return Tensor::from(ids, {count}).to(device);
}

/// A kernel that is timed must have run: null, or why it declined.
inline void require(const char* declined) {
  if (declined != nullptr) fail(ErrorCode::unsupported, "a kernel declined: {}", declined);
}

/// GB/s of the driver's copy of 2 GiB from device memory to device memory, bytes read and bytes written: what other
/// bandwidths are a share of.
inline Spread copy_rate(Device device, int repeats) {
  const Shape shape = {std::int64_t{1} << 30};
  const Tensor from = random(shape, DType::bf16, device);
  const Tensor to = random(shape, DType::bf16, device);
  const auto bytes = static_cast<std::size_t>(from.numel()) * size_of(from.dtype());
  const Work work = {
      [&] {
        cuda::check(cudaMemcpyAsync(to.raw(), from.raw(), bytes, cudaMemcpyDeviceToDevice, cuda::stream(device.index)),
                    "a copy");
      },
      false};
  const Spread us = time_in_turn(device, {work}, repeats, 3)[0];
  const double moved = 2e-3 * static_cast<double>(bytes);
  return {moved / us.median, moved / us.high, moved / us.low};
}

inline Device gpu() {
  const Device device = device_from_string("cuda");
  if (const std::string missing = backend(device).missing(device); !missing.empty()) {
    fail(ErrorCode::device, "these benchmarks need a GPU: {}", missing);
  }
  return device;
}

/// A program's exit code: what `run` returns, or 1 and the error in one line.
inline int guarded(const std::function<int()>& run) {
  try {
    return run();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}

}  // namespace wick::bench
