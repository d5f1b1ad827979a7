#include <algorithm>
#include <limits>
#include <numeric>
#include <utility>

#include "core/fail.h"
#include "core/rng.h"
#include "wick/data.h"

namespace wick {
namespace {

// With a token budget, batches that still take rows. A row then never moves far from its place in the shuffled order.
constexpr std::size_t kOpenBatches = 64;
constexpr std::int64_t kMaxBatchSize = std::int64_t{1} << 20;
// An epoch is the index of a random stream.
constexpr std::int64_t kMaxEpoch = std::numeric_limits<std::uint32_t>::max();

void check_options(std::span<const std::int64_t> tokens, const BatchOptions& options) {
  if (options.batch_tokens < 0) {
    fail(ErrorCode::invalid_argument, "batch_tokens is {}, expected at least 0", options.batch_tokens);
  }
  if (options.batch_tokens == 0 && (options.batch_size < 1 || options.batch_size > kMaxBatchSize)) {
    fail(ErrorCode::invalid_argument, "batch_size is {}, expected 1 to {}", options.batch_size, kMaxBatchSize);
  }
  if (options.pad_id < 0) fail(ErrorCode::invalid_argument, "pad_id is {}, expected at least 0", options.pad_id);
  if (options.batch_tokens > 0 && !options.pack) {
    fail(ErrorCode::invalid_argument, "batch_tokens is {} without packing, expected batch_size or packing",
         options.batch_tokens);
  }
  if (tokens.empty()) fail(ErrorCode::invalid_argument, "there are no rows to take batches of");
  if (const std::int64_t longest = *std::ranges::max_element(tokens);
      options.batch_tokens > 0 && options.batch_tokens < longest) {
    fail(ErrorCode::invalid_argument, "batch_tokens is {}, expected at least the {} tokens of the longest row",
         options.batch_tokens, longest);
  }
}

std::vector<std::int64_t> row_tokens(const Dataset& dataset) {
  std::vector<std::int64_t> tokens;
  for (const Example& example : dataset.examples()) tokens.push_back(example.tokens());
  return tokens;
}

// Reorders rows batch by batch and returns where each batch begins, and the number of rows.
std::vector<std::size_t> pack_to_budget(std::span<const std::int64_t> lengths, std::int64_t budget,
                                        std::vector<std::size_t>& order) {
  std::vector<std::vector<std::size_t>> batches;
  std::vector<std::int64_t> room;
  for (const std::size_t row : order) {
    const std::int64_t tokens = lengths[row];
    std::size_t batch = batches.size() - std::min(batches.size(), kOpenBatches);
    while (batch < batches.size() && room[batch] < tokens) ++batch;
    if (batch == batches.size()) {
      batches.emplace_back();
      room.push_back(budget);
    }
    batches[batch].push_back(row);
    room[batch] -= tokens;
  }
  order.clear();
  std::vector<std::size_t> offsets = {0};
  for (const auto& batch : batches) {
    order.insert(order.end(), batch.begin(), batch.end());
    offsets.push_back(order.size());
  }
  return offsets;
}

Tensor to_tensor(const std::vector<std::int32_t>& values) {
  return Tensor::from(values, {static_cast<std::int64_t>(values.size())});
}

Batch make_batch(const Dataset& dataset, std::span<const std::size_t> rows, const BatchOptions& options) {
  std::int64_t longest = 0;
  std::int64_t total = 0;
  for (const std::size_t row : rows) {
    longest = std::max(longest, dataset.examples()[row].tokens());
    total += dataset.examples()[row].tokens();
  }
  if (!options.pack) total = longest * static_cast<std::int64_t>(rows.size());
  if (total > std::numeric_limits<std::int32_t>::max()) {
    fail(ErrorCode::invalid_argument, "a batch of {} rows has {} tokens, expected fewer than 2^31: lower batch_size",
         rows.size(), total);
  }

  std::vector<std::int32_t> ids;
  std::vector<std::int32_t> positions;
  std::vector<std::int32_t> labels;
  std::vector<std::int32_t> offsets = {0};
  for (auto* values : {&ids, &positions, &labels}) values->reserve(static_cast<std::size_t>(total));
  Batch batch;
  for (const std::size_t row : rows) {
    const Example& example = dataset.examples()[row];
    const std::size_t start = ids.size();
    ids.insert(ids.end(), example.ids.begin(), example.ids.end());
    labels.insert(labels.end(), example.labels.begin() + 1, example.labels.end());
    const std::size_t end = options.pack ? ids.size() : start + static_cast<std::size_t>(longest);
    ids.resize(end, options.pad_id);
    labels.resize(end, kIgnoreLabel);
    positions.resize(end);
    std::iota(positions.begin() + static_cast<std::ptrdiff_t>(start), positions.end(), 0);
    offsets.push_back(static_cast<std::int32_t>(end));
    batch.trained_tokens += example.trained_tokens();
  }
  batch.tokens = {to_tensor(ids), to_tensor(positions), to_tensor(offsets), longest};
  batch.labels = to_tensor(labels);
  batch.rows = static_cast<std::int64_t>(rows.size());
  return batch;
}

}  // namespace

RowStream::RowStream(std::vector<std::int64_t> tokens, const BatchOptions& options)
    : tokens_(std::move(tokens)), options_(options) {
  check_options(tokens_, options);
  plan_epoch();
}

void RowStream::plan_epoch() {
  order_.resize(tokens_.size());
  std::iota(order_.begin(), order_.end(), std::size_t{0});
  if (options_.shuffle) {
    Rng rng(options_.seed, {RandomPurpose::shuffle, static_cast<std::uint32_t>(cursor_.epoch)});
    shuffle(std::span(order_), rng);
  }
  if (options_.batch_tokens > 0) batch_offsets_ = pack_to_budget(tokens_, options_.batch_tokens, order_);
}

std::int64_t RowStream::places() const noexcept {
  return options_.batch_tokens > 0 ? static_cast<std::int64_t>(batch_offsets_.size()) - 1 : std::ssize(tokens_);
}

void RowStream::advance() {
  if (++cursor_.index < places()) return;
  cursor_ = {cursor_.epoch + 1, 0};
  plan_epoch();
}

std::vector<std::size_t> RowStream::next() {
  std::vector<std::size_t> rows;
  const auto index = static_cast<std::size_t>(cursor_.index);
  if (options_.batch_tokens > 0) {
    rows.assign(order_.begin() + static_cast<std::ptrdiff_t>(batch_offsets_[index]),
                order_.begin() + static_cast<std::ptrdiff_t>(batch_offsets_[index + 1]));
    advance();
  } else {
    while (static_cast<std::int64_t>(rows.size()) < options_.batch_size) {
      rows.push_back(order_[static_cast<std::size_t>(cursor_.index)]);
      advance();
    }
  }
  return rows;
}

void RowStream::seek(const DataCursor& cursor) {
  if (cursor.epoch < 0 || cursor.epoch > kMaxEpoch) {
    fail(ErrorCode::invalid_argument, "the data cursor's epoch is {}, expected 0 to {}", cursor.epoch, kMaxEpoch);
  }
  const DataCursor before = cursor_;
  cursor_ = cursor;
  if (before.epoch != cursor.epoch) plan_epoch();
  if (cursor.index < 0 || cursor.index >= places()) {
    const std::int64_t found = places();
    cursor_ = before;
    plan_epoch();
    fail(ErrorCode::invalid_argument, "the data cursor's index is {}, expected 0 to {} in epoch {}: is it other data?",
         cursor.index, found - 1, cursor.epoch);
  }
}

BatchStream::BatchStream(const Dataset& dataset, const BatchOptions& options)
    : dataset_(&dataset), options_(options), rows_(row_tokens(dataset), options) {}

Batch BatchStream::next() { return make_batch(*dataset_, rows_.next(), options_); }

std::vector<Batch> validation_batches(const Dataset& dataset, const BatchOptions& options, std::int64_t max_batches) {
  const std::vector<std::int64_t> tokens = row_tokens(dataset);
  check_options(tokens, options);
  std::vector<std::size_t> order(static_cast<std::size_t>(dataset.size()));
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::vector<std::size_t> offsets;
  if (options.batch_tokens > 0) {
    offsets = pack_to_budget(tokens, options.batch_tokens, order);
  } else {
    for (std::size_t at = 0; at < order.size(); at += static_cast<std::size_t>(options.batch_size)) {
      offsets.push_back(at);
    }
    offsets.push_back(order.size());
  }
  std::vector<Batch> batches;
  for (std::size_t i = 0; i + 1 < offsets.size(); ++i) {
    if (max_batches >= 0 && static_cast<std::int64_t>(i) >= max_batches) break;
    batches.push_back(make_batch(dataset, std::span(order).subspan(offsets[i], offsets[i + 1] - offsets[i]), options));
  }
  return batches;
}

}  // namespace wick
