#pragma once

#include <cstdint>
#include <string_view>

namespace wick {

enum class ScheduleKind { constant, linear, cosine };

std::string_view to_string(ScheduleKind kind) noexcept;
ScheduleKind schedule_from_string(std::string_view name);  ///< "constant", "linear", "cosine"; else
                                                           ///< Error(invalid_argument)

struct ScheduleOptions {
  ScheduleKind kind = ScheduleKind::constant;
  double learning_rate = 1e-4;    ///< the peak
  std::int64_t warmup_steps = 0;  ///< the rate rises from 0 at step 0 to the peak at step warmup_steps
  std::int64_t total_steps = 0;   ///< linear and cosine: where the decay ends, at least 1 and at least warmup_steps
  double min_rate = 0;            ///< cosine: what it decays to; must be 0 for the others
};

/// The learning rate of each optimizer step, counted from 0: a pure function, so there is nothing to save or restore.
/// With n the share of the decay that is done, (step - warmup) / (total - warmup): linear is peak (1 - n); cosine is
/// min + (peak - min) (1 + cos(pi n)) / 2 (Loshchilov & Hutter 2017). These are the schedules "with warmup" of Hugging
/// Face transformers, but that a cosine stays at its minimum past the end instead of rising again.
class Schedule {
 public:
  /// Error(invalid_argument) naming the option that is out of range.
  explicit Schedule(const ScheduleOptions& options);

  double learning_rate(std::int64_t step) const;  ///< step >= 0, else Error(invalid_argument)
  const ScheduleOptions& options() const noexcept { return options_; }

 private:
  ScheduleOptions options_;
};

}  // namespace wick
