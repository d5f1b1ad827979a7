#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>

#include "io/file_descriptor.h"
#include "io/json.h"

namespace wick {

/// How a LineReader reads.
struct LineOptions {
  std::size_t max_line = std::size_t{64} << 20;  ///< bytes of the longest line
  bool keep_blank = false;                       ///< blank lines are lines like others
  std::function<bool()> stop = {};               ///< once it says true the input ends, also while it is waited for
};

/// Reads the lines of a text file one after the other, in constant memory; a pipe will do. Lines end in LF or CR LF,
/// the last one need not; a byte-order mark at the start is skipped, and so are blank lines unless they are kept.
class LineReader {
 public:
  /// Error(io) when the file cannot be read; next() gives Error(format) for a line of more than `max_line` bytes, and
  /// goes on behind it.
  explicit LineReader(const std::filesystem::path& path, const LineOptions& options = {});
  /// Of standard input, called "standard input" in messages.
  static LineReader standard_input(const LineOptions& options = {});

  /// The next line, without its end, valid until the next call; nothing at the end of the file.
  std::optional<std::string_view> next();
  /// The number, from 1, of the line that next() gave last.
  std::int64_t line() const noexcept { return line_; }
  /// "FILE:LINE", for messages about that line.
  std::string where() const { return where(line_); }
  std::string where(std::int64_t line) const;

 private:
  LineReader(FileDescriptor fd, std::string name, const LineOptions& options);
  bool fill();

  std::string path_;
  FileDescriptor fd_;
  LineOptions options_;
  std::string buffer_;
  std::size_t position_ = 0;  // what of the buffer is used up
  std::string text_;
  std::int64_t line_ = 0;
};

/// LineReader for JSON Lines: each line that is not blank is one JSON value, read as parse_json() does.
class JsonlReader {
 public:
  explicit JsonlReader(const std::filesystem::path& path, const LineOptions& options = {}) : lines_(path, options) {}

  /// The next row; nothing at the end of the file. Error(format) naming file and line.
  std::optional<Json> next();
  std::int64_t line() const noexcept { return lines_.line(); }
  std::string where() const { return lines_.where(); }

 private:
  LineReader lines_;
};

}  // namespace wick
