#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "io/jsonl.h"

namespace CLI {
class App;
}

namespace wick::cli {

/// Where a verb reads texts from.
struct TextInputOptions {
  std::string input = "-";
  std::string format = "auto";

  /// --input-format
  void add_format_to(CLI::App& verb);
  /// Whether lines are JSON objects: as said, or by the file's name.
  bool is_jsonl() const;
};

/// Texts of a file or of standard input, a line each: plain lines, blank ones too, or JSON objects with a "text".
/// After SIGINT or SIGTERM the input ends, and once `stop` says true.
class TextInput {
 public:
  explicit TextInput(const TextInputOptions& options, const std::function<bool()>& stop = {});

  /// The next line as it stands, valid until the next call; nothing at the end. Error(format) naming a line that is too
  /// long; the next call goes on behind it.
  std::optional<std::string_view> next() { return lines_.next(); }
  /// The number of the line that next() gave last.
  std::int64_t line() const noexcept { return lines_.line(); }
  /// "FILE:LINE".
  std::string where(std::int64_t line) const { return lines_.where(line); }
  /// The text of a line that next() gave, on any thread. Error(format) naming one that is not UTF-8 or not such an
  /// object.
  std::string text_of(std::string_view line, std::int64_t number) const;

 private:
  LineReader lines_;
  bool jsonl_;
};

/// A line as a text, by the rules of TextInput. `where` names it in messages.
std::string text_of_line(std::string_view line, bool jsonl, const std::string& where);

}  // namespace wick::cli
