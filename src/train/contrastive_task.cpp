#include <cmath>
#include <numeric>

#include "core/fail.h"
#include "train/train_task.h"

namespace wick {
namespace {

void check(const PairDataset& train, const PairDataset* valid, const ContrastiveOptions& contrastive,
           const TrainOptions& options) {
  if (!(contrastive.temperature > 0) || !std::isfinite(contrastive.temperature)) {
    fail(ErrorCode::invalid_argument, "--temperature is {}, expected more than 0", contrastive.temperature);
  }
  if (train.columns() == 2 && options.batches.batch_size < 2) {
    fail(ErrorCode::invalid_argument,
         "--batch-size is {}, expected 2 or more: a pair's negatives are the other pairs of its batch",
         options.batches.batch_size);
  }
  if (options.batches.batch_tokens > 0 || !options.batches.pack || options.label_smoothing > 0) {
    fail(ErrorCode::unsupported, "contrastive training has no {}",
         options.batches.batch_tokens > 0 ? "--batch-tokens"
         : !options.batches.pack          ? "--no-pack"
                                          : "--label-smoothing");
  }
  if (valid != nullptr && valid->columns() != train.columns()) {
    fail(ErrorCode::invalid_argument, "rows of the validation data have {} texts, those of the training data {}",
         valid->columns(), train.columns());
  }
}

class ContrastiveTask final : public TrainTask {
 public:
  ContrastiveTask(EmbeddingModel& model, const PairDataset& train, const PairDataset* valid,
                  const ContrastiveOptions& contrastive, const TrainOptions& options)
      : model_(model), train_(train), contrastive_(contrastive), stream_(lengths(train), options.batches) {
    check(train, valid, contrastive, options);
    if (valid != nullptr && options.steps_per_eval > 0) plan_validation(*valid, options);
  }

  DType dtype() const override { return model_.dtype(); }
  Device device() const override { return model_.device(); }
  void refresh_adapter() override { model_.refresh_adapter(); }
  void set_dropout(double p, std::uint64_t seed, std::uint32_t pass) override { model_.set_dropout(p, seed, pass); }

  Batch next() override { return make_batch(train_, stream_.next()); }
  DataCursor cursor() const override { return stream_.cursor(); }
  void seek(const DataCursor& cursor) override { stream_.seek(cursor); }

  Tensor loss(const Batch& batch) const override {
    return contrastive_loss(model_.pooled(batch.tokens), batch.labels, batch.rows, contrastive_);
  }
  std::int64_t terms(const Batch& batch) const override { return batch.rows; }
  std::string_view loss_unit() const override { return "nats per row"; }

  bool has_validation() const override { return !validation_.empty(); }
  Validation validate() const override;

  Json course() const override {
    return {{"task", "contrastive"},
            {"temperature", contrastive_.temperature},
            {"symmetric", contrastive_.symmetric},
            {"data", train_.fingerprint()}};
  }

 private:
  static std::vector<std::int64_t> lengths(const PairDataset& data);
  static Batch make_batch(const PairDataset& data, std::span<const std::size_t> rows);
  void plan_validation(const PairDataset& valid, const TrainOptions& options);

  EmbeddingModel& model_;
  const PairDataset& train_;
  ContrastiveOptions contrastive_;
  RowStream stream_;
  std::vector<Batch> validation_;
};

std::vector<std::int64_t> ContrastiveTask::lengths(const PairDataset& data) {
  std::vector<std::int64_t> all;
  for (std::int64_t row = 0; row < data.size(); ++row) {
    std::int64_t tokens = 0;
    for (std::int64_t c = 0; c < data.columns(); ++c) tokens += std::ssize(data.tokens(data.text(row, c)));
    all.push_back(tokens);
  }
  return all;
}

// All anchors, all positives, all negatives; the labels are the numbers of the texts.
Batch ContrastiveTask::make_batch(const PairDataset& data, std::span<const std::size_t> rows) {
  std::vector<std::vector<TokenId>> sequences;
  std::vector<std::int32_t> texts;
  for (std::int64_t column = 0; column < data.columns(); ++column) {
    for (const std::size_t row : rows) {
      texts.push_back(data.text(static_cast<std::int64_t>(row), column));
      sequences.push_back(data.tokens(texts.back()));
    }
  }
  Batch batch;
  batch.tokens = TokenBatch::packed(sequences);
  batch.labels = Tensor::from(texts, {std::ssize(texts)});
  batch.trained_tokens = batch.tokens.tokens();
  batch.rows = std::ssize(rows);
  return batch;
}

// Whole batches in the order of the file, so that losses compare; fewer rows than a batch are one of their own.
void ContrastiveTask::plan_validation(const PairDataset& valid, const TrainOptions& options) {
  std::vector<std::size_t> order(static_cast<std::size_t>(valid.size()));
  std::iota(order.begin(), order.end(), std::size_t{0});
  const std::size_t size = std::min(order.size(), static_cast<std::size_t>(options.batches.batch_size));
  for (std::size_t at = 0; at + size <= order.size(); at += size) {
    if (options.val_batches >= 0 && std::ssize(validation_) >= options.val_batches) break;
    validation_.push_back(make_batch(valid, std::span(order).subspan(at, size)));
  }
}

// Recall is among the candidates of all batches together.
TrainTask::Validation ContrastiveTask::validate() const {
  const NoGrad no_grad;
  double loss = 0;
  std::int64_t rows = 0;
  const auto columns = static_cast<std::size_t>(train_.columns());
  std::vector<std::vector<Tensor>> vectors(columns);  // of each column, batch by batch
  std::vector<std::vector<Tensor>> texts(columns);
  for (const Batch& batch : validation_) {
    const Tensor all = model_.pooled(batch.tokens);
    loss += contrastive_loss(all, batch.labels, batch.rows, contrastive_).item();
    rows += batch.rows;
    for (std::size_t c = 0; c < columns; ++c) {
      const std::int64_t at = static_cast<std::int64_t>(c) * batch.rows;
      vectors[c].push_back(all.slice(0, at, batch.rows));
      texts[c].push_back(batch.labels.slice(0, at, batch.rows));
    }
  }
  const auto joined = [](const std::vector<std::vector<Tensor>>& columns_of) {
    std::vector<Tensor> flat;
    for (const std::vector<Tensor>& column : columns_of) flat.insert(flat.end(), column.begin(), column.end());
    return concat(flat, 0);
  };
  return {.loss = loss / static_cast<double>(rows), .recall_at_1 = recall_at_1(joined(vectors), joined(texts), rows)};
}

}  // namespace

std::unique_ptr<TrainTask> make_contrastive_task(EmbeddingModel& model, const PairDataset& train,
                                                 const PairDataset* valid, const ContrastiveOptions& contrastive,
                                                 const TrainOptions& options) {
  return std::make_unique<ContrastiveTask>(model, train, valid, contrastive, options);
}

}  // namespace wick
