#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "wick/model.h"
#include "wick/tensor.h"
#include "wick/tokenizer.h"

namespace wick {

/// The label of a token that is not trained on, as in PyTorch and transformers.
inline constexpr std::int32_t kIgnoreLabel = -100;

/// One training sequence. Labels are unshifted, as in transformers: the model's output at position t is trained on
/// labels[t + 1], and labels[0] on nothing.
struct Example {
  std::vector<std::int32_t> ids;
  std::vector<std::int32_t> labels;  ///< one for each id: an id, or kIgnoreLabel

  std::int64_t tokens() const noexcept { return static_cast<std::int64_t>(ids.size()); }
  std::int64_t trained_tokens() const noexcept;
  bool operator==(const Example&) const = default;
};

/// What the rows of a file hold; all rows of a file hold the same. Keys that a format does not name are ignored, a null
/// counts as a missing key, and a row with the keys of two formats is refused.
enum class RowFormat {
  text,        ///< {"text": string}
  completion,  ///< {"prompt": string, "completion": string}
  tokens,      ///< {"input_ids": [ids], "labels": [ids or -100]}, labels may be missing: all of input_ids
};
std::string_view to_string(RowFormat format) noexcept;

struct DatasetOptions {
  std::int64_t vocab_size = 0;           ///< of the model: every id lies in [0, vocab_size)
  std::int64_t max_seq_length = 2048;    ///< longer rows lose their end
  const Tokenizer* tokenizer = nullptr;  ///< needed for text, used only while reading
  std::string no_tokenizer = {};         ///< why it is null, for the error that a row of text is then
  /// The first one is appended to text and to completions, unless the row ends in one of them anyway; none: nothing is.
  std::vector<std::int32_t> eos_token_ids = {};
  bool mask_prompt = false;  ///< train on the completion alone, not on its prompt
};

/// What became of a file's rows.
struct DatasetReport {
  RowFormat format = RowFormat::text;
  std::int64_t rows = 0;
  std::int64_t truncated = 0;  ///< were longer than max_seq_length, or than the tokenizer's file lets any text be
  std::int64_t dropped = 0;    ///< had no token to train on (fewer than two tokens, or all labels masked)
  std::int64_t tokens = 0;     ///< of the rows that are left
  std::int64_t trained_tokens = 0;
};

/// Training sequences, in the order of their file.
class Dataset {
 public:
  /// Reads a file of JSON Lines, its format found from the rows. Text is encoded with the tokenizer's special tokens; a
  /// prompt and its completion are encoded each by itself, so that the border between them is one between tokens; only
  /// what a template puts in front of a text stands in front of the prompt, and the space that some tokenizers put
  /// before a text (EncodeOptions::continues) not in front of the completion. Error(io) when the file cannot be read;
  /// Error(format) naming file and line for a row that is broken, of another format than the first, has an id outside
  /// the vocabulary, or needs a tokenizer that is not there, and for a file without a token to train on;
  /// Error(invalid_argument) for options that contradict each other.
  static Dataset from_file(const std::filesystem::path& path, const DatasetOptions& options);
  /// Sequences made by the program, taken as they are. Error(invalid_argument) if there is none, or one has no trained
  /// token or not as many labels as ids.
  static Dataset from_examples(std::vector<Example> examples);

  std::span<const Example> examples() const noexcept { return examples_; }
  std::int64_t size() const noexcept { return static_cast<std::int64_t>(examples_.size()); }
  std::int64_t longest() const noexcept { return longest_; }  ///< tokens of the longest sequence
  const DatasetReport& report() const noexcept { return report_; }
  /// A hash of all ids and labels in order: tells whether a run resumes on the data that it began with.
  std::uint64_t fingerprint() const noexcept;

 private:
  Dataset(std::vector<Example> examples, DatasetReport report);

  std::vector<Example> examples_;
  std::int64_t longest_ = 0;
  DatasetReport report_;
};

/// The data of a run.
struct DataSplits {
  Dataset train;
  std::optional<Dataset> valid;
  std::optional<Dataset> test;
};

/// Reads a folder's train.jsonl and, where they are there, valid.jsonl and test.jsonl; or one file, which is all for
/// training. Errors as Dataset::from_file; Error(io) for a folder without train.jsonl.
DataSplits load_data(const std::filesystem::path& path, const DatasetOptions& options);

/// Rows laid out for one forward pass.
struct Batch {
  TokenBatch tokens;
  Tensor labels;  ///< i32 [tokens], shifted to stand at the position that predicts them; kIgnoreLabel elsewhere. Of
                  ///< texts that belong together: the texts' numbers, i32 [sequences], as contrastive_loss() takes them
  std::int64_t trained_tokens = 0;
  std::int64_t rows = 0;
};

struct BatchOptions {
  std::int64_t batch_size = 4;    ///< rows in a batch, unless batch_tokens is set
  std::int64_t batch_tokens = 0;  ///< > 0: a batch takes as many rows as fit into this number of tokens
  bool pack = true;               ///< lay rows end to end; false: pad each to the longest of its batch
  bool shuffle = true;            ///< a new order in each epoch; false: the order of the file
  std::uint64_t seed = 0;
  std::int32_t pad_id = 0;  ///< any id of the vocabulary; no loss and no sequence's real positions see it
};

/// Where a BatchStream stands. The numbers are part of the checkpoint format.
struct DataCursor {
  std::int64_t epoch = 0;
  std::int64_t index = 0;  ///< rows taken of the epoch; with batch_tokens, batches taken

  bool operator==(const DataCursor&) const = default;
};

/// Which rows go into which batch, without end. The order of each epoch is a pure function of the seed and the epoch's
/// number, so a cursor is all that it takes to continue exactly.
///
/// With batch_size every batch has that many rows: one that reaches the end of an epoch goes on with the next epoch's
/// rows, and each epoch holds each row once. With batch_tokens the rows of an epoch go, in order, each into the first
/// of the last 64 batches that has room for it; a batch then ends with its epoch, and may be less full there.
class RowStream {
 public:
  /// `tokens` are those of each row. Error(invalid_argument) if there are no rows, for sizes below 1, batch_tokens
  /// without packing, or a budget that the longest row exceeds.
  RowStream(std::vector<std::int64_t> tokens, const BatchOptions& options);

  std::vector<std::size_t> next();
  const DataCursor& cursor() const noexcept { return cursor_; }
  /// Error(invalid_argument) for a place that this data does not have.
  void seek(const DataCursor& cursor);

 private:
  std::int64_t places() const noexcept;  // values that the cursor's index takes in this epoch
  void plan_epoch();
  void advance();

  std::vector<std::int64_t> tokens_;
  BatchOptions options_;
  DataCursor cursor_;
  std::vector<std::size_t> order_;          // rows of this epoch, batch by batch
  std::vector<std::size_t> batch_offsets_;  // with batch_tokens: where each batch begins in order_, and its size
};

/// The batches of a dataset, in the order of a RowStream.
class BatchStream {
 public:
  /// The dataset must outlive the stream. Errors as RowStream.
  BatchStream(const Dataset& dataset, const BatchOptions& options);
  BatchStream(const Dataset&& dataset, const BatchOptions& options) = delete;

  Batch next();
  const DataCursor& cursor() const noexcept { return rows_.cursor(); }
  /// Error(invalid_argument) for a place that this data does not have.
  void seek(const DataCursor& cursor) { rows_.seek(cursor); }

 private:
  const Dataset* dataset_;
  BatchOptions options_;
  RowStream rows_;
};

/// All rows once in the order of the file, laid out as BatchStream would; the last batch may be short. At most
/// `max_batches`, unless that is negative. Errors as BatchStream.
std::vector<Batch> validation_batches(const Dataset& dataset, const BatchOptions& options,
                                      std::int64_t max_batches = -1);

}  // namespace wick
