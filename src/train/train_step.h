#pragma once

#include <cstdint>
#include <memory>

#include "train/train_task.h"
#include "wick/adapter.h"

namespace wick {

/// One optimizer step after the other: begin(), accumulate() for each batch but the last, update() with that one.
class TrainStep {
 public:
  struct Settings {
    AdamWOptions adamw = {};  ///< its learning_rate is ignored
    double max_grad_norm = 0;
    double dropout = 0;
    std::uint64_t seed = 0;  ///< of dropout
    std::int32_t pad_id = 0;
    std::int64_t token_budget = 0;  ///< > 0: no batch has more tokens
    bool record = true;             ///< on an accelerator; false: launch by launch, as a profile wants it
  };
  struct Result {
    double loss = 0;  ///< summed over the terms
    double grad_norm = 0;
  };

  virtual ~TrainStep() = default;
  /// Starts a step whose loss is the mean over `terms` in all.
  virtual void begin(std::int64_t terms) = 0;
  /// Adds a batch's gradient; `pass` is its number in the run.
  virtual void accumulate(const Batch& batch, std::uint32_t pass) = 0;
  /// Adds the last batch's gradient, clips, and updates the adapter unless loss or gradient is not finite. `step`
  /// counts from 1.
  virtual Result update(const Batch& last, std::uint32_t pass, double learning_rate, std::int64_t step) = 0;
};

/// For the device that the task's model is on. exp_avg and exp_avg_sq, AdamW's moments, are flat f32 as the adapter's
/// values.
std::unique_ptr<TrainStep> make_train_step(TrainTask& task, const Adapter& adapter, const Tensor& exp_avg,
                                           const Tensor& exp_avg_sq, const TrainStep::Settings& settings);

}  // namespace wick
