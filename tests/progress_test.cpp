#include "cli/progress.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>

#include "core/format_count.h"

namespace wick::cli {
namespace {

Progress halfway() {
  return {.step = 50, .total_steps = 200, .elapsed_seconds = 60, .loss = 2.3456, .tokens_per_second = 5120.4};
}

// What a terminal shows: a carriage return goes back, and later characters overwrite.
std::string on_screen(const std::string& output) {
  std::string lines;
  std::string line;
  std::size_t column = 0;
  for (const char c : output) {
    if (c == '\r') {
      column = 0;
    } else if (c == '\n') {
      lines += line.substr(0, line.find_last_not_of(' ') + 1) + "|";
      line.clear();
      column = 0;
    } else {
      if (column == line.size()) line += ' ';
      line[column++] = c;
    }
  }
  return lines + line.substr(0, line.find_last_not_of(' ') + 1);
}

struct Terminal {
  std::string output;
  std::size_t columns = 80;
  ProgressPrinter printer;

  explicit Terminal(bool rewrite)
      : printer(
            rewrite, [this] { return columns; }, [this](std::string_view text) { output += text; }) {}
};

TEST(Duration, HasTwoUnits) {
  EXPECT_EQ(format_duration(0), "0s");
  EXPECT_EQ(format_duration(0.4), "0s");
  EXPECT_EQ(format_duration(59.4), "59s");
  EXPECT_EQ(format_duration(59.6), "1m 00s");
  EXPECT_EQ(format_duration(187), "3m 07s");
  EXPECT_EQ(format_duration(3599), "59m 59s");
  EXPECT_EQ(format_duration(3600), "1h 00m");
  EXPECT_EQ(format_duration(3725), "1h 02m");
  EXPECT_EQ(format_duration(86400 * 2 + 3600 * 3), "2d 03h");
  EXPECT_EQ(format_duration(-1), "?");
  EXPECT_EQ(format_duration(std::nan("")), "?");
  EXPECT_EQ(format_duration(std::numeric_limits<double>::infinity()), "?");
}

TEST(Count, HasSeparators) {
  EXPECT_EQ(format_count(0), "0");
  EXPECT_EQ(format_count(999), "999");
  EXPECT_EQ(format_count(1000), "1,000");
  EXPECT_EQ(format_count(1234567), "1,234,567");
  EXPECT_EQ(format_count(-123), "-123");
  EXPECT_EQ(format_count(-1234), "-1,234");
}

TEST(Remaining, IsThePaceOfThisRun) {
  EXPECT_DOUBLE_EQ(remaining_seconds(halfway()).value(), 180);
  Progress resumed = halfway();
  resumed.first_step = 40;
  EXPECT_DOUBLE_EQ(remaining_seconds(resumed).value(), 900);
  resumed.first_step = 50;
  EXPECT_FALSE(remaining_seconds(resumed).has_value());
}

TEST(Line, ShowsWhatIsKnown) {
  Progress progress = halfway();
  EXPECT_EQ(progress_line(progress), "step 50/200  25%  loss 2.346  5,120 tokens/s  3m 00s left");
  progress.val_loss = 2.4;
  EXPECT_EQ(progress_line(progress), "step 50/200  25%  loss 2.346  val 2.400  5,120 tokens/s  3m 00s left");
  progress.step = 200;
  EXPECT_EQ(progress_line(progress), "step 200/200  100%  loss 2.346  val 2.400  5,120 tokens/s  took 1m 00s");
  EXPECT_EQ(progress_line({.step = 0, .total_steps = 10}), "step 0/10  0%");
}

TEST(Line, LosesFieldsThatDoNotFit) {
  const std::string whole = progress_line(halfway());
  EXPECT_EQ(progress_line(halfway(), whole.size()), whole);
  EXPECT_EQ(progress_line(halfway(), whole.size() - 1), "step 50/200  25%  loss 2.346  5,120 tokens/s");
  EXPECT_EQ(progress_line(halfway(), 12), "step 50/200");
  EXPECT_EQ(progress_line(halfway(), 5), "");
}

TEST(Rewriting, NeedsATerminalAndNoObjection) {
  EXPECT_TRUE(rewrites_lines(true, nullptr, "xterm"));
  EXPECT_TRUE(rewrites_lines(true, "", "xterm"));  // no-color.org: only a value that is not empty counts
  EXPECT_FALSE(rewrites_lines(true, "1", "xterm"));
  EXPECT_FALSE(rewrites_lines(true, nullptr, "dumb"));
  EXPECT_FALSE(rewrites_lines(true, nullptr, nullptr));
  EXPECT_FALSE(rewrites_lines(false, nullptr, "xterm"));
}

TEST(Printer, WritesPlainLinesIntoAPipe) {
  Terminal pipe(false);
  pipe.printer.update(halfway(), false);
  pipe.printer.update(halfway(), true);
  pipe.printer.message("saved");
  pipe.printer.finish();
  EXPECT_EQ(pipe.output, "step 50/200  25%  loss 2.346  5,120 tokens/s  3m 00s left\nsaved\n");
}

TEST(Printer, RewritesItsLineOnATerminal) {
  Terminal terminal(true);
  Progress progress = halfway();
  terminal.printer.update(progress, false);
  EXPECT_EQ(on_screen(terminal.output), progress_line(progress));
  progress.step = 60;
  progress.loss.reset();  // a shorter line leaves nothing of the longer one
  terminal.printer.update(progress, true);
  EXPECT_EQ(on_screen(terminal.output), progress_line(progress));
  terminal.printer.message("saved");
  EXPECT_EQ(on_screen(terminal.output), "saved|" + progress_line(progress));
  progress.step = 61;
  terminal.printer.update(progress, false);
  EXPECT_EQ(on_screen(terminal.output), "saved|" + progress_line(progress));
  terminal.printer.finish();
  terminal.printer.finish();
  EXPECT_EQ(on_screen(terminal.output), "saved|" + progress_line(progress) + "|");
}

TEST(Printer, ShowsAStatusOnATerminalOnly) {
  Terminal pipe(false);
  pipe.printer.status("12 texts");
  EXPECT_EQ(pipe.output, "");
  Terminal terminal(true);
  terminal.columns = 8;
  terminal.printer.status("12345678901");
  EXPECT_EQ(on_screen(terminal.output), "1234567");
  terminal.printer.status("12 texts");
  terminal.printer.status("done");
  EXPECT_EQ(on_screen(terminal.output), "done");
}

TEST(Printer, NeverFillsTheLastColumn) {
  for (std::size_t columns = 1; columns < 70; ++columns) {
    Terminal terminal(true);
    terminal.printer.update(halfway(), false);
    terminal.columns = columns;  // made narrower in between
    terminal.output.clear();
    terminal.printer.update(halfway(), false);
    EXPECT_LT(terminal.output.size() - 1, std::max<std::size_t>(columns, 2)) << columns;
  }
}

}  // namespace
}  // namespace wick::cli
