#include "wick/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/fail.h"

namespace wick {

std::string_view to_string(ScheduleKind kind) noexcept {
  switch (kind) {
    case ScheduleKind::constant:
      return "constant";
    case ScheduleKind::linear:
      return "linear";
    case ScheduleKind::cosine:
      return "cosine";
  }
  return "unknown";
}

ScheduleKind schedule_from_string(std::string_view name) {
  for (const ScheduleKind kind : {ScheduleKind::constant, ScheduleKind::linear, ScheduleKind::cosine}) {
    if (name == to_string(kind)) return kind;
  }
  fail(ErrorCode::invalid_argument, "learning-rate schedule '{}' is unknown, expected constant, linear or cosine",
       name);
}

Schedule::Schedule(const ScheduleOptions& options) : options_(options) {
  const auto& [kind, peak, warmup, total, min_rate] = options_;
  if (!(peak >= 0) || !std::isfinite(peak)) {
    fail(ErrorCode::invalid_argument, "learning_rate is {}, expected a finite number of 0 or more", peak);
  }
  if (warmup < 0) fail(ErrorCode::invalid_argument, "warmup_steps is {}, expected 0 or more", warmup);
  if (!(min_rate >= 0 && min_rate <= peak)) {
    fail(ErrorCode::invalid_argument, "min_rate is {}, expected 0 to the learning rate, {}", min_rate, peak);
  }
  if (kind != ScheduleKind::cosine && min_rate != 0) {
    fail(ErrorCode::invalid_argument, "min_rate is {}, expected 0: only a cosine schedule has one", min_rate);
  }
  if (kind != ScheduleKind::constant && total < std::max<std::int64_t>(warmup, 1)) {
    fail(ErrorCode::invalid_argument, "total_steps is {}, expected at least {} for a {} schedule with {} warmup steps",
         total, std::max<std::int64_t>(warmup, 1), to_string(kind), warmup);
  }
}

double Schedule::learning_rate(std::int64_t step) const {
  const auto& [kind, peak, warmup, total, min_rate] = options_;
  if (step < 0) fail(ErrorCode::invalid_argument, "step is {}, expected 0 or more", step);
  if (step < warmup) return peak * static_cast<double>(step) / static_cast<double>(warmup);
  if (kind == ScheduleKind::constant) return peak;
  if (step >= total) return min_rate;
  const double done = static_cast<double>(step - warmup) / static_cast<double>(total - warmup);
  if (kind == ScheduleKind::linear) return peak * (1 - done);
  return min_rate + (peak - min_rate) * 0.5 * (1 + std::cos(std::numbers::pi * done));
}

}  // namespace wick
