#include "wick/data.h"

#include <algorithm>
#include <utility>

#include "core/fail.h"
#include "train/data_files.h"
#include "train/dataset_rows.h"

namespace wick {
namespace {

namespace fs = std::filesystem;

void check_options(const DatasetOptions& options) {
  if (options.vocab_size < 1) {
    fail(ErrorCode::invalid_argument, "vocab_size is {}, expected at least 1", options.vocab_size);
  }
  if (options.max_seq_length < 2) {
    fail(ErrorCode::invalid_argument, "max_seq_length is {}, expected at least 2", options.max_seq_length);
  }
  for (const std::int32_t id : options.eos_token_ids) {
    if (id < 0 || id >= options.vocab_size) {
      fail(ErrorCode::invalid_argument, "the end-of-sequence id {} is outside the model's vocabulary of {}", id,
           options.vocab_size);
    }
  }
}

}  // namespace

std::int64_t Example::trained_tokens() const noexcept {
  if (labels.empty()) return 0;
  return std::count_if(labels.begin() + 1, labels.end(), [](std::int32_t label) { return label != kIgnoreLabel; });
}

std::string_view to_string(RowFormat format) noexcept {
  switch (format) {
    case RowFormat::text:
      return "text";
    case RowFormat::completion:
      return "prompt/completion";
    case RowFormat::tokens:
      return "input_ids";
  }
  return "?";
}

Dataset::Dataset(std::vector<Example> examples, DatasetReport report)
    : examples_(std::move(examples)), report_(report) {
  for (const Example& example : examples_) {
    longest_ = std::max(longest_, example.tokens());
    report_.tokens += example.tokens();
    report_.trained_tokens += example.trained_tokens();
  }
}

Dataset Dataset::from_file(const fs::path& path, const DatasetOptions& options) {
  check_options(options);
  RowReader reader(path, options);
  std::vector<Example> examples;
  DatasetReport report;
  while (auto row = reader.next()) {
    ++report.rows;
    const bool too_long = row->example.tokens() > options.max_seq_length;
    if (too_long) {
      row->example.ids.resize(static_cast<std::size_t>(options.max_seq_length));
      row->example.labels.resize(static_cast<std::size_t>(options.max_seq_length));
    }
    if (too_long || row->truncated) ++report.truncated;
    if (row->example.trained_tokens() == 0) {
      ++report.dropped;
    } else {
      examples.push_back(std::move(row->example));
    }
  }
  if (report.rows == 0) fail(ErrorCode::format, "{}: holds no rows", path.string());
  if (examples.empty()) {
    fail(ErrorCode::format, "{}: none of the {} rows has a token to train on", path.string(), report.rows);
  }
  report.format = reader.format();
  return Dataset(std::move(examples), report);
}

Dataset Dataset::from_examples(std::vector<Example> examples) {
  if (examples.empty()) fail(ErrorCode::invalid_argument, "a dataset needs at least one example");
  for (std::size_t i = 0; i < examples.size(); ++i) {
    const Example& example = examples[i];
    if (example.ids.size() != example.labels.size()) {
      fail(ErrorCode::invalid_argument, "example {} has {} ids and {} labels", i, example.ids.size(),
           example.labels.size());
    }
    if (example.trained_tokens() == 0) fail(ErrorCode::invalid_argument, "example {} has no token to train on", i);
  }
  DatasetReport report;
  report.format = RowFormat::tokens;
  report.rows = static_cast<std::int64_t>(examples.size());
  return Dataset(std::move(examples), report);
}

std::uint64_t Dataset::fingerprint() const noexcept {
  // FNV-1a over whole numbers; the lengths keep the borders between rows apart.
  std::uint64_t hash = 0xcbf29ce484222325;
  const auto add = [&hash](std::uint64_t value) { hash = (hash ^ value) * 0x100000001b3; };
  for (const Example& example : examples_) {
    add(example.ids.size());
    for (const std::int32_t id : example.ids) add(static_cast<std::uint32_t>(id));
    for (const std::int32_t label : example.labels) add(static_cast<std::uint32_t>(label));
  }
  return hash;
}

DataSplits load_data(const fs::path& path, const DatasetOptions& options) {
  const DataFiles files = find_data_files(path);
  const auto read = [&](const std::optional<fs::path>& file) {
    return file ? std::optional(Dataset::from_file(*file, options)) : std::nullopt;
  };
  return {Dataset::from_file(files.train, options), read(files.valid), read(files.test)};
}

}  // namespace wick
