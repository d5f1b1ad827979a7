#include "io/jsonl.h"

#include <fcntl.h>
#include <poll.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "core/fail.h"

namespace wick {

LineReader::LineReader(FileDescriptor fd, std::string name, const LineOptions& options)
    : path_(std::move(name)), fd_(std::move(fd)), options_(options) {
  if (!fd_) fail(ErrorCode::io, "{}: cannot open: {}", path_, std::strerror(errno));
}

LineReader::LineReader(const std::filesystem::path& path, const LineOptions& options)
    : LineReader(FileDescriptor(::open(path.c_str(), O_RDONLY | O_CLOEXEC)), path.string(), options) {}

LineReader LineReader::standard_input(const LineOptions& options) {
  return {FileDescriptor(::fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 0)), "standard input", options};
}

bool LineReader::fill() {
  // A read of a pipe or terminal may wait for ever; nothing of that kind is asked to read before it has something.
  const auto stopped = [&] { return options_.stop && options_.stop(); };
  struct pollfd waits {};
  waits.fd = fd_.get();
  waits.events = POLLIN;
  while (options_.stop && !stopped() && ::poll(&waits, 1, 100) <= 0) {
  }
  buffer_.clear();
  if (stopped()) return false;
  buffer_.resize(std::size_t{1} << 16);
  position_ = 0;
  ::ssize_t count = 0;
  do {
    count = ::read(fd_.get(), buffer_.data(), buffer_.size());
  } while (count < 0 && errno == EINTR);
  if (count < 0) fail(ErrorCode::io, "{}: cannot read: {}", path_, std::strerror(errno));
  buffer_.resize(static_cast<std::size_t>(count));
  return count > 0;
}

std::optional<std::string_view> LineReader::next() {
  for (;;) {
    text_.clear();
    ++line_;
    bool ended = false;
    bool any = false;
    bool too_long = false;
    while (!ended && (position_ < buffer_.size() || fill())) {
      any = true;
      const auto newline = buffer_.find('\n', position_);
      ended = newline != std::string::npos;
      const std::size_t stop = ended ? newline : buffer_.size();
      too_long = too_long || text_.size() + (stop - position_) > options_.max_line;
      if (!too_long) text_.append(buffer_, position_, stop - position_);
      position_ = ended ? stop + 1 : stop;
    }
    if (!any) {
      --line_;
      return std::nullopt;
    }
    if (too_long) fail(ErrorCode::format, "{}: the line is longer than {} bytes", where(), options_.max_line);
    std::string_view text = text_;
    if (line_ == 1 && text.starts_with("\xef\xbb\xbf")) text.remove_prefix(3);
    if (text.ends_with('\r')) text.remove_suffix(1);
    if (options_.keep_blank || text.find_first_not_of(" \t\r") != std::string_view::npos) return text;
  }
}

std::string LineReader::where(std::int64_t line) const { return fmt::format("{}:{}", path_, line); }

std::optional<Json> JsonlReader::next() {
  const auto text = lines_.next();
  if (!text) return std::nullopt;
  return parse_json(*text, lines_.where());
}

}  // namespace wick
