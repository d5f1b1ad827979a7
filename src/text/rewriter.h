#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "text/normalizer.h"
#include "text/unicode.h"

namespace wick::text {

/// Writes a changed copy of a text, with the origins of its bytes if they are wanted.
class Rewriter {
 public:
  Rewriter(std::string_view text, bool with_origins) : text_(text), with_origins_(with_origins) {}

  /// Copies the bytes [begin, end) of the text, whole characters.
  void keep(std::size_t begin, std::size_t end) {
    out_.text.append(text_.substr(begin, end - begin));
    if (!with_origins_) return;
    std::size_t at = out_.origins.size();
    out_.origins.resize(at + (end - begin));
    for (std::size_t i = begin; i < end;) {
      const Origin origin = starting_at(i);
      for (; i < origin.end; ++i) out_.origins[at++] = origin;
    }
  }
  /// Writes something else, all of which comes from one place.
  void insert(std::string_view content, Origin origin) {
    out_.text += content;
    if (with_origins_) out_.origins.insert(out_.origins.end(), content.size(), origin);
  }
  /// The character that starts at `begin`, and the one that ends at `end` (none: 0, 0).
  Origin starting_at(std::size_t begin) const {
    std::size_t end = begin;
    next_code_point(text_, end);
    return {static_cast<std::uint32_t>(begin), static_cast<std::uint32_t>(end)};
  }
  Origin ending_at(std::size_t end) const {
    if (end == 0) return {0, 0};
    std::size_t begin = end - 1;
    while (begin > 0 && (static_cast<unsigned char>(text_[begin]) & 0xC0U) == 0x80U) --begin;
    return {static_cast<std::uint32_t>(begin), static_cast<std::uint32_t>(end)};
  }
  std::size_t size() const { return out_.text.size(); }
  Normalized take() { return std::move(out_); }

 private:
  std::string_view text_;
  bool with_origins_;
  Normalized out_;
};

/// Turns origins in a text into those in the text that it was made from, whose own origins are `before`.
inline void trace_back(std::vector<Origin>& origins, const Origin* before) {
  for (Origin& origin : origins) {
    origin = origin.end == 0 ? Origin{0, 0} : Origin{before[origin.begin].begin, before[origin.end - 1].end};
  }
}

}  // namespace wick::text
