#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace wick::cli {

/// "42s", "3m 07s", "1h 02m", "2d 03h": two units at most. Negative or not finite: "?".
std::string format_duration(double seconds);

/// How far a run is.
struct Progress {
  std::int64_t step = 0;  ///< done
  std::int64_t total_steps = 0;
  std::int64_t first_step = 0;  ///< done before this run began, when it resumes
  double elapsed_seconds = 0;   ///< of this run
  std::optional<double> loss = {};
  std::optional<double> val_loss = {};
  std::optional<double> tokens_per_second = {};
};

/// The seconds that are left at the pace so far; nothing before the first step is done.
std::optional<double> remaining_seconds(const Progress& progress);

/// "step 120/600  20%  loss 2.314  val 2.401  5,120 tokens/s  3m 07s left", without its end. What does not fit into
/// `columns` is left out from the right, field by field; 0 columns: no limit.
std::string progress_line(const Progress& progress, std::size_t columns = 0);

/// A line that is rewritten in place asks for a terminal that moves its cursor; NO_COLOR asks for plain text, and so
/// does a pipe. `no_color` and `term` are those environment variables, null where they are not set.
bool rewrites_lines(bool is_terminal, const char* no_color, const char* term);

/// Shows how a run proceeds: one line that is rewritten, or a plain line for each report.
class ProgressPrinter {
 public:
  /// `columns` is asked for at each step, since terminals change their size; `write` gets whole pieces of output.
  ProgressPrinter(bool rewrite, std::function<std::size_t()> columns, std::function<void(std::string_view)> write)
      : rewrite_(rewrite), columns_(std::move(columns)), write_(std::move(write)) {}
  /// On standard error, as it and the environment ask for.
  static ProgressPrinter on_stderr();

  /// After each step; `report` says that this one is due for a plain line too.
  void update(const Progress& progress, bool report);
  /// In place of the rewritten line, cut to the terminal's width; nothing where lines are not rewritten.
  void status(std::string_view text);
  /// A line of its own that stays, such as what was saved where.
  void message(std::string_view text);
  /// Leaves the last state in place and ends its line.
  void finish();

 private:
  void erase();
  std::size_t room() const;
  void rewrite(std::string line, std::size_t room);

  bool rewrite_;
  std::function<std::size_t()> columns_;
  std::function<void(std::string_view)> write_;
  std::string shown_;  // what the rewritten line holds
};

}  // namespace wick::cli
