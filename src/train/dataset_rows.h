#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "io/jsonl.h"
#include "wick/data.h"

namespace wick {

/// Reads the rows of a data file as examples of any length. See Dataset::from_file for the rules and the errors.
class RowReader {
 public:
  struct Row {
    Example example;
    bool truncated = false;  ///< the tokenizer's own truncation may have cut it
  };

  /// `options` must outlive the reader.
  RowReader(const std::filesystem::path& path, const DatasetOptions& options) : reader_(path), options_(options) {}

  std::optional<Row> next();
  /// What the rows read so far hold; there must be one.
  RowFormat format() const { return format_.value(); }

 private:
  void check_format(const Json& row);
  std::vector<std::int32_t> encode(std::string_view text, const EncodeOptions& options, Row& out) const;
  std::vector<std::int32_t> encode_prompt(std::string_view text, Row& out) const;
  void append_eos(std::vector<std::int32_t>& ids) const;
  void read_text(const Json& row, Row& out) const;
  void read_completion(const Json& row, Row& out) const;
  void read_tokens(const Json& row, Row& out) const;

  JsonlReader reader_;
  const DatasetOptions& options_;
  std::string where_;  // file and line of the row in hand
  std::optional<RowFormat> format_;
  std::int64_t format_line_ = 0;  // the line that set it
};

}  // namespace wick
