// Expected rates: last_lr of transformers 5.23 get_{constant,linear,cosine}_schedule_with_warmup and
// get_cosine_with_min_lr_schedule_with_warmup, at learning rate 0.1.
#include "wick/schedule.h"

#include <gtest/gtest.h>

#include <limits>
#include <string_view>
#include <vector>

#include "expect_error.h"

namespace wick {
namespace {

void expect_rates(const ScheduleOptions& options, const std::vector<double>& expected) {
  const Schedule schedule(options);
  for (std::size_t step = 0; step < expected.size(); ++step) {
    EXPECT_NEAR(schedule.learning_rate(static_cast<std::int64_t>(step)), expected[step], 1e-14) << "step " << step;
  }
}

TEST(Schedule, ConstantWithWarmup) {
  expect_rates({.learning_rate = 0.1, .warmup_steps = 3}, {0.0, 0.033333333333333, 0.066666666666667, 0.1, 0.1, 0.1});
}

TEST(Schedule, ConstantWithoutWarmup) { expect_rates({.learning_rate = 0.1}, {0.1, 0.1, 0.1}); }

TEST(Schedule, LinearWithWarmup) {
  expect_rates({.kind = ScheduleKind::linear, .learning_rate = 0.1, .warmup_steps = 3, .total_steps = 10},
               {0.0, 0.033333333333333, 0.066666666666667, 0.1, 0.085714285714286, 0.071428571428571, 0.057142857142857,
                0.042857142857143, 0.028571428571429, 0.014285714285714, 0.0, 0.0, 0.0});
}

TEST(Schedule, LinearWithoutWarmup) {
  expect_rates({.kind = ScheduleKind::linear, .learning_rate = 0.1, .total_steps = 10},
               {0.1, 0.09, 0.08, 0.07, 0.06, 0.05, 0.04, 0.03, 0.02, 0.01, 0.0, 0.0});
}

TEST(Schedule, CosineWithWarmupStaysAtZeroPastTheEnd) {
  expect_rates({.kind = ScheduleKind::cosine, .learning_rate = 0.1, .warmup_steps = 3, .total_steps = 10},
               {0.0, 0.033333333333333, 0.066666666666667, 0.1, 0.095048443395121, 0.081174490092937, 0.061126046697816,
                0.038873953302184, 0.018825509907063, 0.004951556604879, 0.0, 0.0, 0.0});
}

TEST(Schedule, CosineToAMinimum) {
  expect_rates(
      {.kind = ScheduleKind::cosine, .learning_rate = 0.1, .warmup_steps = 3, .total_steps = 10, .min_rate = 0.01},
      {0.0, 0.033333333333333, 0.066666666666667, 0.1, 0.095543599055609, 0.083057041083643, 0.065013442028034,
       0.044986557971966, 0.026942958916357, 0.014456400944391, 0.01, 0.01, 0.01});
}

TEST(Schedule, WarmupOfTheWholeRun) {
  expect_rates({.kind = ScheduleKind::linear, .learning_rate = 0.1, .warmup_steps = 2, .total_steps = 2},
               {0.0, 0.05, 0.0});
}

TEST(Schedule, NamesRoundTrip) {
  for (const char* name : {"constant", "linear", "cosine"}) EXPECT_EQ(to_string(schedule_from_string(name)), name);
}

void expect_refused(const ScheduleOptions& options, std::string_view part) {
  test::expect_refused(part, [&] { const Schedule schedule(options); });
}

TEST(Schedule, RefusesWhatMakesNoSense) {
  expect_refused({.learning_rate = -1}, "learning_rate is -1");
  expect_refused({.learning_rate = std::numeric_limits<double>::quiet_NaN()}, "learning_rate is nan");
  expect_refused({.warmup_steps = -1}, "warmup_steps is -1");
  expect_refused({.min_rate = 1e-5}, "min_rate is 1e-05");
  expect_refused({.kind = ScheduleKind::cosine, .learning_rate = 0.1, .total_steps = 5, .min_rate = 0.2},
                 "min_rate is 0.2");
  expect_refused({.kind = ScheduleKind::linear}, "total_steps is 0");
  expect_refused({.kind = ScheduleKind::cosine, .warmup_steps = 8, .total_steps = 7}, "total_steps is 7");
  EXPECT_THROW(schedule_from_string("Linear"), Error);
  EXPECT_THROW(Schedule({}).learning_rate(-1), Error);
}

}  // namespace
}  // namespace wick
