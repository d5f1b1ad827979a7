#include "core/fail.h"
#include "train/train_task.h"

namespace wick {
namespace {

class LmTask final : public TrainTask {
 public:
  LmTask(Decoder& model, const Dataset& train, const Dataset* valid, const TrainOptions& options)
      : model_(model), train_(train), options_(options), stream_(train, options.batches) {
    if (valid != nullptr && options.steps_per_eval > 0) {
      validation_ = validation_batches(*valid, options.batches, options.val_batches);
    }
  }

  DType dtype() const override { return model_.dtype(); }
  Device device() const override { return model_.device(); }
  void refresh_adapter() override { model_.refresh_adapter(); }
  void set_dropout(double p, std::uint64_t seed, std::uint32_t pass) override { model_.set_dropout(p, seed, pass); }

  Batch next() override { return stream_.next(); }
  DataCursor cursor() const override { return stream_.cursor(); }
  void seek(const DataCursor& cursor) override { stream_.seek(cursor); }

  Tensor loss(const Batch& batch) const override {
    return linear_cross_entropy(model_.forward(batch.tokens), model_.head(), batch.labels.to(model_.device()),
                                {.label_smoothing = options_.label_smoothing});
  }
  std::int64_t terms(const Batch& batch) const override { return batch.trained_tokens; }
  std::string_view loss_unit() const override { return "nats per token"; }

  bool has_validation() const override { return !validation_.empty(); }
  Validation validate() const override { return {.loss = evaluate(model_, validation_)}; }

  Json course() const override {
    return {{"batch-tokens", options_.batches.batch_tokens},
            {"no-pack", !options_.batches.pack},
            {"label-smoothing", options_.label_smoothing},
            {"data", train_.fingerprint()}};
  }
  bool takes_padding() const override { return true; }

 private:
  Decoder& model_;
  const Dataset& train_;
  TrainOptions options_;
  BatchStream stream_;
  std::vector<Batch> validation_;
};

}  // namespace

double evaluate(const Decoder& model, const std::vector<Batch>& batches) {
  const NoGrad no_grad;
  double loss = 0;
  std::int64_t tokens = 0;
  for (const Batch& batch : batches) {
    loss += linear_cross_entropy(model.forward(batch.tokens), model.head(), batch.labels.to(model.device())).item();
    tokens += batch.trained_tokens;
  }
  if (tokens == 0)
    fail(ErrorCode::invalid_argument, "the {} batches to evaluate have no trained token", batches.size());
  return loss / static_cast<double>(tokens);
}

std::unique_ptr<TrainTask> make_lm_task(Decoder& model, const Dataset& train, const Dataset* valid,
                                        const TrainOptions& options) {
  return std::make_unique<LmTask>(model, train, valid, options);
}

}  // namespace wick
