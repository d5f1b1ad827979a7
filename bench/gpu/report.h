#pragma once

// The rows that elementwise_bench and cross_entropy_bench print: a table, or with `json` one JSON object a line.

#include <cstdio>
#include <string>

#include "gpu/timing.h"

namespace wick::bench {

class Report {
 public:
  Report(Device device, bool json, int repeats) : json_(json), repeats_(repeats) {
    const Spread copy = copy_rate(device, repeats);
    copy_ = copy.median;
    const std::string& name = cuda::info(device.index).name;
    if (json_) {
      std::printf("{\"work\": \"copy\", \"device\": \"%s\", \"gbps\": %.1f}\n", name.c_str(), copy_);
    } else {
      std::printf("%s, a copy moves %.0f GB/s [%.0f, %.0f]\n\n%-58s %10s %10s %10s %8s %6s %8s\n", name.c_str(), copy_,
                  copy.low, copy.high, "", "us", "fastest", "slowest", "GB/s", "share", "TFLOP/s");
    }
  }

  int repeats() const { return repeats_; }

  /// The share is of a copy. Bytes or operations of 0: not worth a figure.
  void row(const std::string& work, const Spread& us, double bytes, double flops = 0) const {
    const double rate = 1e-3 * bytes / us.median;
    const double speed = 1e-6 * flops / us.median;
    if (json_) {
      std::printf("{\"work\": \"%s\", \"us\": %.3f, \"fastest_us\": %.3f, \"slowest_us\": %.3f", work.c_str(),
                  us.median, us.low, us.high);
      if (bytes > 0) std::printf(", \"gbps\": %.1f, \"share\": %.3f", rate, rate / copy_);
      if (flops > 0) std::printf(", \"tflops\": %.1f", speed);
      std::printf("}\n");
    } else {
      std::printf("%-58s %10.2f %10.2f %10.2f", work.c_str(), us.median, us.low, us.high);
      if (bytes > 0) std::printf(" %8.0f %5.1f%%", rate, 100 * rate / copy_);
      if (flops > 0) std::printf(" %*.1f", bytes > 0 ? 8 : 24, speed);
      std::printf("\n");
    }
    std::fflush(stdout);
  }

 private:
  bool json_;
  int repeats_;
  double copy_ = 0;
};

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

inline void require(const char* declined) {
  if (declined != nullptr) fail(ErrorCode::unsupported, "declined: {}", declined);
}

}  // namespace wick::bench
