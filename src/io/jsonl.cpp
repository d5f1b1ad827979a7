#include "io/jsonl.h"

#include <fcntl.h>

#include <cerrno>
#include <cstring>

#include "core/fail.h"

namespace wick {

LineReader::LineReader(const std::filesystem::path& path, std::size_t max_line)
    : path_(path.string()), fd_(::open(path.c_str(), O_RDONLY | O_CLOEXEC)), max_line_(max_line) {
  if (!fd_) fail(ErrorCode::io, "{}: cannot open: {}", path_, std::strerror(errno));
}

bool LineReader::fill() {
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
    while (!ended && (position_ < buffer_.size() || fill())) {
      any = true;
      const auto newline = buffer_.find('\n', position_);
      ended = newline != std::string::npos;
      const std::size_t stop = ended ? newline : buffer_.size();
      if (text_.size() + (stop - position_) > max_line_) {
        fail(ErrorCode::format, "{}: the line is longer than {} bytes", where(), max_line_);
      }
      text_.append(buffer_, position_, stop - position_);
      position_ = ended ? stop + 1 : stop;
    }
    if (!any) {
      --line_;
      return std::nullopt;
    }
    std::string_view text = text_;
    if (line_ == 1 && text.starts_with("\xef\xbb\xbf")) text.remove_prefix(3);
    if (text.ends_with('\r')) text.remove_suffix(1);
    if (text.find_first_not_of(" \t\r") != std::string_view::npos) return text;
  }
}

std::string LineReader::where() const { return fmt::format("{}:{}", path_, line_); }

std::optional<Json> JsonlReader::next() {
  const auto text = lines_.next();
  if (!text) return std::nullopt;
  return parse_json(*text, lines_.where());
}

}  // namespace wick
