#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>

#include "io/json.h"
#include "wick/contrastive.h"
#include "wick/train.h"

namespace wick {

/// What a Trainer trains: a model that has its adapter, the order of its data, and the loss.
class TrainTask {
 public:
  struct Validation {
    double loss = 0;  ///< mean over the terms of the validation data
    std::optional<double> recall_at_1 = {};
  };

  virtual ~TrainTask() = default;
  virtual DType dtype() const = 0;
  virtual Device device() const = 0;
  virtual void refresh_adapter() = 0;
  virtual void set_dropout(double p, std::uint64_t seed, std::uint32_t pass) = 0;

  virtual Batch next() = 0;  ///< of the training data, without end
  virtual DataCursor cursor() const = 0;
  virtual void seek(const DataCursor& cursor) = 0;

  /// The sum over the terms of a batch: shape [], recorded.
  virtual Tensor loss(const Batch& batch) const = 0;
  /// How many terms a batch's loss is the sum of; a step's is the mean over those of all its batches.
  virtual std::int64_t terms(const Batch& batch) const = 0;
  virtual std::string_view loss_unit() const = 0;  ///< "nats per token"

  virtual bool has_validation() const = 0;
  virtual Validation validate() const = 0;

  /// What the task adds to the options that the course of a run depends on, by their names in the program.
  virtual Json course() const = 0;
  /// Whether a batch may get a further sequence that adds nothing to the loss, and may lie on the device: its step can
  /// then be recorded there.
  virtual bool takes_padding() const { return false; }
};

/// Next-token prediction of a decoder. `valid` may be null.
std::unique_ptr<TrainTask> make_lm_task(Decoder& model, const Dataset& train, const Dataset* valid,
                                        const TrainOptions& options);
/// Sentence embeddings from pairs. `valid` may be null.
std::unique_ptr<TrainTask> make_contrastive_task(EmbeddingModel& model, const PairDataset& train,
                                                 const PairDataset* valid, const ContrastiveOptions& contrastive,
                                                 const TrainOptions& options);

}  // namespace wick
