#pragma once

// The form in which the benchmarks write what they measured, one JSON object a line, and a table for people.
// bench/README.md describes the form; bench/peers/record.py writes the same, bench/report.py reads it.

#include <cstdio>
#include <string>

#include "gpu/timing.h"
#include "io/json.h"

namespace wick::bench {

/// Prints one figure: what was done ("lora linear"), on what ({"tokens": 8192, ...}), how much of which unit. `rates`
/// are further members: "gb_s" and "tflops" say how fast that was, "share" what part of a measured ceiling.
inline void print_record(const std::string& work, const Json& parameters, const Spread& value, const std::string& unit,
                         const Json& rates = Json::object()) {
  Json record = {{"by", "wick"},     {"work", work},       {"case", parameters}, {"value", value.median},
                 {"low", value.low}, {"high", value.high}, {"unit", unit}};
  record.update(rates);
  std::puts(dump_json_line(record).c_str());
  std::fflush(stdout);
}

/// "8192 x 4864": how a shape stands in the parameters.
inline std::string extents(const Shape& shape) {
  std::string text;
  for (const std::int64_t extent : shape) text += (text.empty() ? "" : " x ") + std::to_string(extent);
  return text;
}

/// Times of kernels beside a copy of device memory in the same run, as a table or as records.
class Report {
 public:
  Report(Device device, bool json, int repeats) : json_(json), repeats_(repeats) {
    const Spread copy = copy_rate(device, repeats);
    copy_ = copy.median;
    if (json_) {
      print_record("copy", Json::object(), copy, "GB/s", {{"gb_s", copy.median}});
    } else {
      std::printf("%s, a copy moves %.0f GB/s [%.0f, %.0f]\n\n%-58s %10s %10s %10s %8s %6s %8s\n",
                  cuda::info(device.index).name.c_str(), copy_, copy.low, copy.high, "", "us", "fastest", "slowest",
                  "GB/s", "share", "TFLOP/s");
    }
  }

  int repeats() const { return repeats_; }

  /// The share is of a copy. Bytes or operations of 0: not worth a figure.
  void row(const std::string& work, const Json& parameters, const Spread& us, double bytes, double flops = 0) const {
    const double rate = 1e-3 * bytes / us.median;
    const double speed = 1e-6 * flops / us.median;
    if (json_) {
      Json rates = Json::object();
      if (bytes > 0) rates.update({{"gb_s", rate}, {"share", rate / copy_}});
      if (flops > 0) rates.update({{"tflops", speed}});
      print_record(work, parameters, us, "us", rates);
      return;
    }
    std::string name = work;
    for (const Json& value : parameters) name += ", " + (value.is_string() ? value.get<std::string>() : value.dump());
    std::printf("%-58s %10.2f %10.2f %10.2f", name.c_str(), us.median, us.low, us.high);
    if (bytes > 0) std::printf(" %8.0f %5.1f%%", rate, 100 * rate / copy_);
    if (flops > 0) std::printf(" %*.1f", bytes > 0 ? 8 : 24, speed);
    std::printf("\n");
    std::fflush(stdout);
  }

 private:
  bool json_;
  int repeats_;
  double copy_ = 0;
};

}  // namespace wick::bench
