#pragma once

// The form in which the benchmarks write what they measured, one JSON object a line. bench/README.md describes it;
// bench/peers/record.py writes the same, bench/report.py reads it.

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

}  // namespace wick::bench
