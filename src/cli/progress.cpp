#include "cli/progress.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "core/format_count.h"

namespace wick::cli {

std::string format_duration(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0 || seconds > 1e12) return "?";
  const auto whole = static_cast<std::int64_t>(std::llround(seconds));
  const std::int64_t minutes = whole / 60;
  const std::int64_t hours = minutes / 60;
  if (minutes == 0) return fmt::format("{}s", whole);
  if (hours == 0) return fmt::format("{}m {:02}s", minutes, whole % 60);
  if (hours < 24) return fmt::format("{}h {:02}m", hours, minutes % 60);
  return fmt::format("{}d {:02}h", hours / 24, hours % 24);
}

std::optional<double> remaining_seconds(const Progress& progress) {
  const std::int64_t done = progress.step - progress.first_step;
  if (done <= 0 || progress.step > progress.total_steps) return std::nullopt;
  const auto left = static_cast<double>(progress.total_steps - progress.step);
  return progress.elapsed_seconds / static_cast<double>(done) * left;
}

std::string progress_line(const Progress& progress, std::size_t columns) {
  std::vector<std::string> fields = {fmt::format("step {}/{}", progress.step, progress.total_steps)};
  if (progress.total_steps > 0) fields.push_back(fmt::format("{}%", progress.step * 100 / progress.total_steps));
  if (progress.loss) fields.push_back(fmt::format("loss {:.3f}", *progress.loss));
  if (progress.val_loss) fields.push_back(fmt::format("val {:.3f}", *progress.val_loss));
  if (progress.tokens_per_second && std::abs(*progress.tokens_per_second) < 1e15) {
    fields.push_back(format_count(std::llround(*progress.tokens_per_second)) + " tokens/s");
  }
  if (progress.step == progress.total_steps) {
    fields.push_back("took " + format_duration(progress.elapsed_seconds));
  } else if (const auto left = remaining_seconds(progress)) {
    fields.push_back(format_duration(*left) + " left");
  }
  std::string line;
  for (const std::string& field : fields) {
    const std::string_view gap = line.empty() ? "" : "  ";
    if (columns != 0 && line.size() + gap.size() + field.size() > columns) break;
    line.append(gap).append(field);
  }
  return line;
}

bool rewrites_lines(bool is_terminal, const char* no_color, const char* term) {
  const bool plain = no_color != nullptr && *no_color != '\0';
  const bool dumb = term == nullptr || *term == '\0' || std::string_view(term) == "dumb";
  return is_terminal && !plain && !dumb;
}

ProgressPrinter ProgressPrinter::on_stderr() {
  const auto columns = [] {
    struct winsize size {};
    return ::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? std::size_t{size.ws_col}
                                                                             : std::size_t{80};
  };
  const auto write = [](std::string_view text) {
    std::fwrite(text.data(), 1, text.size(), stderr);
    std::fflush(stderr);
  };
  return ProgressPrinter(rewrites_lines(::isatty(STDERR_FILENO) == 1, std::getenv("NO_COLOR"), std::getenv("TERM")),
                         columns, write);
}

void ProgressPrinter::erase() {
  if (shown_.empty()) return;
  write_(fmt::format("\r{:{}}\r", "", shown_.size()));
  shown_.clear();
}

void ProgressPrinter::update(const Progress& progress, bool report) {
  if (!rewrite_) {
    if (report) write_(fmt::format("{}\n", progress_line(progress)));
    return;
  }
  const std::size_t room = this->room();
  rewrite(progress_line(progress, room), room);
}

// The last column stays free: a terminal may wrap after it.
std::size_t ProgressPrinter::room() const { return std::max<std::size_t>(columns_(), 2) - 1; }

// Spaces cover what a longer line left behind.
void ProgressPrinter::rewrite(std::string line, std::size_t room) {
  const std::size_t before = std::min(shown_.size(), room);
  const std::size_t rest = before - std::min(before, line.size());
  write_(fmt::format("\r{}{:{}}", line, "", rest));
  shown_ = std::move(line);
}

void ProgressPrinter::status(std::string_view text) {
  if (!rewrite_) return;
  const std::size_t room = this->room();
  rewrite(std::string(text.substr(0, room)), room);
}

void ProgressPrinter::message(std::string_view text) {
  const std::string line = shown_;
  erase();
  write_(fmt::format("{}\n", text));
  if (!line.empty()) {
    write_(line);
    shown_ = line;
  }
}

void ProgressPrinter::finish() {
  if (shown_.empty()) return;
  write_("\n");
  shown_.clear();
}

}  // namespace wick::cli
