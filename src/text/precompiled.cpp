#include "text/precompiled.h"

#include <utf8proc.h>

#include <algorithm>
#include <utility>

#include "text/rewriter.h"
#include "text/unicode.h"

namespace wick::text {
namespace {

// A unit of a Darts-clone double array.
bool has_leaf(std::uint32_t unit) { return (unit >> 8 & 1U) != 0; }
std::uint32_t value_of(std::uint32_t unit) { return unit & 0x7FFFFFFFU; }
std::uint32_t label_of(std::uint32_t unit) { return unit & 0x800000FFU; }
std::uint32_t offset_of(std::uint32_t unit) { return (unit >> 10) << ((unit & 0x200U) >> 6); }

// Canonical base64 with padding; false if it is anything else.
bool decode_base64(std::string_view text, std::string& out) {
  if (text.size() % 4 != 0) return false;
  const auto value = [](char c) -> int {
    if (c >= 'A' && c <= 'Z') return c - 'A';
    if (c >= 'a' && c <= 'z') return c - 'a' + 26;
    if (c >= '0' && c <= '9') return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
  };
  out.reserve(text.size() / 4 * 3);
  for (std::size_t i = 0; i < text.size(); i += 4) {
    std::size_t digits = 4;
    if (i + 4 == text.size()) digits = text[i + 3] != '=' ? 4 : text[i + 2] != '=' ? 3 : 2;
    std::uint32_t bits = 0;
    for (std::size_t k = 0; k < 4; ++k) {
      const int digit = k < digits ? value(text[i + k]) : 0;
      if (digit < 0) return false;
      bits = bits << 6 | static_cast<std::uint32_t>(digit);
    }
    for (std::size_t k = 0; k + 1 < digits; ++k) out.push_back(static_cast<char>(bits >> (16 - 8 * k) & 0xFFU));
    if ((digits < 4 && (bits >> 8 * (4 - digits) << 8 * (4 - digits)) != bits)) return false;  // bits left over
  }
  return true;
}

std::uint32_t read_u32(std::string_view bytes) {
  std::uint32_t value = 0;
  for (std::size_t i = 4; i-- > 0;) value = value << 8 | static_cast<unsigned char>(bytes[i]);
  return value;
}

// Where the grapheme cluster that begins at `begin` ends (UAX #29).
std::size_t grapheme_end(std::string_view text, std::size_t begin) {
  std::size_t end = begin;
  auto last = static_cast<utf8proc_int32_t>(next_code_point(text, end));
  utf8proc_int32_t state = 0;
  while (end < text.size()) {
    std::size_t after = end;
    const auto next = static_cast<utf8proc_int32_t>(next_code_point(text, after));
    if (utf8proc_grapheme_break_stateful(last, next, &state) != 0) break;
    last = next;
    end = after;
  }
  return end;
}

}  // namespace

Precompiled::Precompiled(const JsonValue& charsmap) {
  std::string bytes;
  if (!decode_base64(charsmap.string(), bytes)) charsmap.format("is not base64");
  if (bytes.size() < 4) charsmap.format("has {} bytes, expected at least 4", bytes.size());
  const std::size_t size = read_u32(bytes);
  if (size > bytes.size() - 4 || size % 4 != 0 || size == 0) {
    charsmap.format("has a trie of {} bytes in {}, expected a multiple of 4", size, bytes.size());
  }
  units_.reserve(size / 4);
  for (std::size_t i = 4; i < 4 + size; i += 4) units_.push_back(read_u32(std::string_view(bytes).substr(i)));
  replacements_ = bytes.substr(4 + size);
  if (valid_prefix(replacements_) != replacements_.size()) charsmap.format("has replacements that are not UTF-8");
  check(charsmap);
  for (unsigned c = 1; c < plain_.size(); ++c) {
    const char byte = static_cast<char>(c);
    replacement({&byte, 1}, plain_[c]);
    plain_[c] = !plain_[c];
  }
  plain_[0] = true;
}

void Precompiled::check(const JsonValue& charsmap) const {
  // Nodes are where the offset of a unit leads to.
  std::vector<bool> seen(units_.size());
  std::vector<std::size_t> stack;
  const auto visit = [&](std::size_t from, bool leaf) {
    const std::size_t node = from ^ offset_of(units_[from]);
    if ((node | 255U) >= units_.size()) {
      charsmap.format("has a trie that leads to unit {} of {}", node | 255U, units_.size());
    }
    if (leaf) {
      const std::size_t value = value_of(units_[node]);
      const bool inside =
          value <= replacements_.size() &&
          (value == replacements_.size() || (static_cast<unsigned char>(replacements_[value]) & 0xC0U) != 0x80U);
      if (!inside) charsmap.format("has a replacement at {} of {} bytes", value, replacements_.size());
    }
    if (!seen[node]) stack.push_back(node);
    seen[node] = true;
  };
  visit(0, false);
  while (!stack.empty()) {
    const std::size_t node = stack.back();
    stack.pop_back();
    for (std::uint32_t byte = 1; byte < 256; ++byte) {
      const std::size_t child = node ^ byte;
      if (label_of(units_[child]) == byte) visit(child, has_leaf(units_[child]));
    }
  }
}

std::string_view Precompiled::replacement_at(std::size_t position) const {
  const std::string_view rest = std::string_view(replacements_).substr(position);
  return rest.substr(0, rest.find('\0'));
}

std::string_view Precompiled::replacement(std::string_view part, bool& found) const {
  std::size_t node = offset_of(units_[0]);
  for (const char c : part) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte == 0) break;
    node ^= byte;
    const std::uint32_t unit = units_[node];
    if (label_of(unit) != byte) break;
    node ^= offset_of(unit);
    if (has_leaf(unit)) {
      found = true;
      return replacement_at(value_of(units_[node]));
    }
  }
  found = false;
  return {};
}

// The new text, and for each of its characters what it does to the old one, so that offsets come out as those of the
// library: 1 if it is added, -n if it takes the place of one character and n more behind it.
struct Precompiled::Edits {
  std::string characters;
  std::vector<std::int32_t> changes;

  static std::int32_t count(std::string_view text) {
    return static_cast<std::int32_t>(std::count_if(
        text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0U) != 0x80U; }));
  }
  void add(std::string_view text) {
    characters += text;
    changes.resize(changes.size() + static_cast<std::size_t>(count(text)), 0);
  }
  void replace(std::string_view part, std::string_view by) {
    add(by);
    std::int32_t longer = count(by) - count(part);
    // What disappears at the very start is not accounted for: later offsets are too small by it.
    if (longer < 0 && !changes.empty()) changes.back() += longer;
    for (auto change = changes.rbegin(); longer > 0; ++change, --longer) *change = 1;
  }
  Normalized apply(std::string_view text) && {
    const Rewriter old(text, false);
    Normalized out;
    out.origins.resize(characters.size());
    std::size_t at = 0;
    std::size_t i = 0;
    for (const std::int32_t change : changes) {
      const std::size_t begin = i;
      next_code_point(characters, i);
      const bool replaces = change <= 0 && at < text.size();
      std::fill(out.origins.begin() + static_cast<std::ptrdiff_t>(begin),
                out.origins.begin() + static_cast<std::ptrdiff_t>(i),
                replaces ? old.starting_at(at) : old.ending_at(at));
      if (!replaces) continue;
      for (std::int32_t n = change; n <= 0 && at < text.size(); ++n) next_code_point(text, at);
    }
    out.text = std::move(characters);
    return out;
  }
};

bool Precompiled::normalize(std::string_view text, bool with_origins, Normalized& out) const {
  Rewriter plain(text, false);
  Edits edits;
  std::size_t copied = 0;  // text[0, copied) is written
  bool changed = false;
  const auto replace = [&](std::size_t begin, std::size_t end) {
    bool found = false;
    const std::string_view by = replacement(text.substr(begin, end - begin), found);
    if (!found) return false;
    changed = true;
    if (with_origins) {
      edits.add(text.substr(copied, begin - copied));
      edits.replace(text.substr(begin, end - begin), by);
    } else {
      plain.keep(copied, begin);
      plain.insert(by, {0, 0});
    }
    copied = end;
    return true;
  };
  for (std::size_t i = 0; i < text.size();) {
    const std::size_t begin = i;
    const auto first = static_cast<unsigned char>(text[i]);
    // Two characters below U+0300 are never one grapheme, but for CR LF.
    const bool alone = first < 0xCC && [&] {
      const std::size_t next = i + (first < 0x80 ? 1 : 2);
      return next == text.size() || (static_cast<unsigned char>(text[next]) < 0xCC && first != '\r');
    }();
    if (alone) {
      i += first < 0x80 ? 1 : 2;
      if (first < 0x80 && plain_[first]) continue;
    } else {
      i = grapheme_end(text, begin);
    }
    constexpr std::size_t kWhole = 6;
    if (i - begin < kWhole && replace(begin, i)) continue;
    for (std::size_t c = begin; c < i;) {
      const std::size_t start = c;
      next_code_point(text, c);
      replace(start, c);
    }
  }
  if (!changed) return false;
  if (with_origins) {
    edits.add(text.substr(copied));
    out = std::move(edits).apply(text);
  } else {
    plain.keep(copied, text.size());
    out = plain.take();
  }
  return true;
}

}  // namespace wick::text
