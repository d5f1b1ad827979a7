#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "wick/contrastive.h"
#include "wick/data.h"
#include "wick/model.h"
#include "wick/profile.h"
#include "wick/schedule.h"

namespace wick {

/// How to train. Names and, where both have them, meanings are mlx-lm's.
struct TrainOptions {
  std::int64_t iters = 1000;  ///< optimizer steps in all, counted from the run's first
  BatchOptions batches;
  std::int64_t grad_accumulation_steps = 1;  ///< batches an optimizer step
  AdamWOptions adamw;                        ///< its learning_rate is ignored: `schedule` has it
  ScheduleOptions schedule;                  ///< its total_steps is `iters` when 0
  double max_grad_norm = 0;                  ///< gradients are scaled down to this Euclidean norm; 0: off
  double label_smoothing = 0;
  std::uint64_t seed = 0;  ///< of dropout; BatchOptions has the shuffle's

  std::int64_t steps_per_report = 10;
  std::int64_t steps_per_eval = 200;  ///< validation every so many steps, before the first and after the last; 0: never
  std::int64_t val_batches = 25;      ///< of each validation; < 0: all
  std::int64_t save_every = 100;      ///< checkpoints; 0: only at the end
  std::int64_t patience = 0;          ///< stop after so many validations without a better one; 0: never

  /// So many steps of this run are profiled, after a warm-up of kProfileWarmUp steps. On a GPU the whole run then goes
  /// launch by launch. 0: none.
  std::int64_t profile_steps = 0;
  static constexpr std::int64_t kProfileWarmUp = 2;

  const std::atomic<bool>* stop =
      nullptr;  ///< set by a signal handler: checkpoint and Error(interrupted) at the next step
};

/// Error(invalid_argument) naming the first option that is out of range.
void validate(const TrainOptions& options);

/// What one optimizer step did: a row of metrics.jsonl. Step 0 is the validation before the first.
struct StepReport {
  std::int64_t step = 0;
  double loss = 0;  ///< mean over the trained tokens (of a contrastive run: the rows) of all the step's batches
  double learning_rate = 0;
  double grad_norm = 0;             ///< before clipping
  std::int64_t trained_tokens = 0;  ///< of this step
  std::int64_t total_trained_tokens = 0;
  double tokens_per_second = 0;           ///< trained tokens, since the last report
  std::size_t peak_memory_bytes = 0;      ///< of the process
  std::optional<double> val_loss;         ///< where this step was followed by a validation
  std::optional<double> val_recall_at_1;  ///< likewise, of a contrastive run
};

struct TrainResult {
  std::int64_t steps = 0;
  double final_loss = 0;
  std::optional<double> first_val_loss, last_val_loss, best_val_loss;
  std::optional<double> first_val_recall_at_1, last_val_recall_at_1;
  std::int64_t best_step = 0;
  bool stopped_early = false;         ///< by patience
  std::vector<KernelRecord> profile;  ///< of options.profile_steps; empty if the run ended in its warm-up
};

/// Mean loss per trained token over batches, without recording gradients. Error(invalid_argument) if there is no such
/// token.
double evaluate(const Decoder& model, const std::vector<Batch>& batches);

/// Trains the adapter that is attached to a model. `folder` receives, each written atomically:
///   adapter_config.json, adapter_model.safetensors   the last adapter, in PEFT's format
///   best/                                            the adapter with the lowest validation loss, likewise
///   metrics.jsonl, loss.svg                          a row for each step (and validation 0); the loss curve
///   checkpoint.safetensors                           adapter, optimizer, data cursor, step: for resume()
class Trainer {
 public:
  /// `valid` may be null. Error(invalid_argument) for options out of range.
  Trainer(Decoder& model, std::shared_ptr<const Adapter> adapter, const Dataset& train, const Dataset* valid,
          const TrainOptions& options, std::filesystem::path folder);
  /// The same of an encoder by pairs of texts: contrastive_loss() over the rows of each batch, all texts of a batch
  /// packed; its trained tokens are theirs. A validation is whole batches in the order of the file, and recall among
  /// the candidates of all of them. Error(invalid_argument) also for a batch_size of 1 with pairs, which have no
  /// negatives then; Error(unsupported) for batch_tokens, padding and label smoothing.
  Trainer(EmbeddingModel& model, std::shared_ptr<const Adapter> adapter, const PairDataset& train,
          const PairDataset* valid, const ContrastiveOptions& contrastive, const TrainOptions& options,
          std::filesystem::path folder);
  ~Trainer();

  /// Continues the run whose checkpoint lies in the folder: what follows is bit for bit what would have followed.
  /// Error(invalid_argument) naming an option that differs from that run's, Error(format) for a broken checkpoint.
  void resume();

  using Listener = std::function<void(const StepReport&)>;
  /// Runs to the end; `listener` hears every step. Error(diverged) naming the step when loss or gradient stops being
  /// finite, Error(interrupted) after a checkpoint when options.stop was set.
  TrainResult run(const Listener& listener = {});

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace wick
