#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "wick/embedding.h"

namespace wick {

/// What a row of PairDataset is made of.
struct PairOptions {
  std::string anchor_prompt = {};   ///< put before each anchor ("query: ")
  std::string passage_prompt = {};  ///< put before each positive and negative ("passage: ")
  std::int64_t max_tokens = 0;  ///< longer texts lose their end; 0, or more than the model's: the model's max_tokens()
};

/// What became of a file's rows.
struct PairReport {
  std::int64_t rows = 0;
  std::int64_t texts = 0;  ///< different ones, with their prompts
  std::int64_t tokens = 0;
  std::int64_t truncated = 0;  ///< of the different texts, those that were cut
};

/// Pairs of texts that belong together, or triplets with a text that does not belong to the first, as a model's tokens.
class PairDataset {
 public:
  /// Reads a file of JSON Lines, each {"anchor", "positive"} or {"anchor", "positive", "negative"}, the anchor also as
  /// "query"; or {"sentence1", "sentence2"}. Other keys are ignored, a null counts as a missing key, and all rows are
  /// pairs or all are triplets. Error(io) when the file cannot be read; Error(format) naming file and line for a row
  /// that is broken, has not the keys of one form, or not as many texts as the first; Error(format) for a file with
  /// fewer than two rows, which have no negatives.
  static PairDataset from_file(const std::filesystem::path& path, const EmbeddingModel& model,
                               const PairOptions& options = {});

  std::int64_t size() const noexcept { return static_cast<std::int64_t>(rows_.size()); }
  /// Texts of a row: 2 or 3.
  std::int64_t columns() const noexcept { return columns_; }
  /// The number of row `row`'s text `column` (0: the anchor, 1: the positive, 2: the negative). Equal numbers are equal
  /// texts.
  std::int32_t text(std::int64_t row, std::int64_t column) const {
    return rows_[static_cast<std::size_t>(row)][static_cast<std::size_t>(column)];
  }
  const std::vector<TokenId>& tokens(std::int32_t text) const { return texts_[static_cast<std::size_t>(text)]; }
  const PairReport& report() const noexcept { return report_; }
  /// A hash of all rows in order: tells whether a run resumes on the data that it began with.
  std::uint64_t fingerprint() const noexcept;

 private:
  PairDataset() = default;

  std::vector<std::vector<TokenId>> texts_;
  std::vector<std::array<std::int32_t, 3>> rows_;
  std::int64_t columns_ = 2;
  PairReport report_;
};

/// train.jsonl and valid.jsonl of a folder, or one file.
struct PairSplits {
  PairDataset train;
  std::optional<PairDataset> valid;
};
/// Errors as PairDataset::from_file; Error(io) for a folder without train.jsonl, Error(format) when one file has pairs
/// and the other triplets.
PairSplits load_pairs(const std::filesystem::path& path, const EmbeddingModel& model, const PairOptions& options = {});

struct ContrastiveOptions {
  double temperature = 0.05;  ///< of the softmax over cosines
  bool symmetric = false;     ///< the mean of this loss and that of finding each positive's anchor among the anchors
};

/// The sum over rows of -log softmax(cos(anchor, candidates) / temperature)[its positive]: the candidates are the
/// positives of all rows, and their negatives (van den Oord et al. 2018; sentence-transformers'
/// MultipleNegativesRankingLoss divides it by the rows). `vectors` [columns * rows, n]: the anchors of all rows, then
/// the positives, then with three columns the negatives; `texts`, i32 [columns * rows] on the host, tells with equal
/// numbers which of them are of equal texts. No candidate of a row are, besides its own positive, texts equal to that
/// and positives of rows with an equal anchor: they are no wrong answers. Computed in f32 (f64 of f64) -> shape [].
/// Error(invalid_argument) for shapes that do not fit, or a temperature that is not positive.
Tensor contrastive_loss(const Tensor& vectors, const Tensor& texts, std::int64_t rows,
                        const ContrastiveOptions& options = {});

/// The share of rows whose positive, or a candidate with a text equal to it, has the largest cosine with the anchor
/// among all candidates. Arguments as contrastive_loss(); of equally near candidates the first counts.
double recall_at_1(const Tensor& vectors, const Tensor& texts, std::int64_t rows);

}  // namespace wick
