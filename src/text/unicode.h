#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace wick::text {

/// One step through a UTF-8 string: a character, a broken sequence, or a sequence that the end of the string cuts off.
struct Utf8Step {
  enum class Kind { character, broken, incomplete };
  Kind kind;
  std::uint32_t code_point;  // for Kind::character
  std::size_t length;        // bytes; for a broken or incomplete sequence its maximal valid prefix, at least 1
};

/// Reads what starts at `bytes[position]` (position < size). Broken sequences are cut as Unicode 3.9 recommends
/// (substitution of maximal subparts), so each stands for one U+FFFD.
Utf8Step utf8_step(std::string_view bytes, std::size_t position);

/// The code point at `position` of a string known to be valid UTF-8; advances `position` past it.
inline std::uint32_t next_code_point(std::string_view valid, std::size_t& position) {
  const auto byte = [&](std::size_t i) { return static_cast<std::uint32_t>(static_cast<unsigned char>(valid[i])); };
  const std::uint32_t first = byte(position);
  if (first < 0x80) return position += 1, first;
  const std::size_t at = position;
  if (first < 0xE0) return position += 2, (first & 0x1FU) << 6 | (byte(at + 1) & 0x3FU);
  if (first < 0xF0) {
    return position += 3, (first & 0x0FU) << 12 | (byte(at + 1) & 0x3FU) << 6 | (byte(at + 2) & 0x3FU);
  }
  return position += 4,
         (first & 0x07U) << 18 | (byte(at + 1) & 0x3FU) << 12 | (byte(at + 2) & 0x3FU) << 6 | (byte(at + 3) & 0x3FU);
}

/// Appends a code point as UTF-8.
void append_utf8(std::string& out, std::uint32_t code_point);

/// The length of the valid UTF-8 prefix of `bytes`.
std::size_t valid_prefix(std::string_view bytes);

/// Appends `bytes` with every broken sequence replaced by U+FFFD. If `keep_incomplete`, a sequence that the end of
/// `bytes` cuts off is not replaced; returns how many bytes were read.
std::size_t append_lossy(std::string& out, std::string_view bytes, bool keep_incomplete);

/// Unicode White_Space.
bool is_white_space(std::uint32_t code_point);

}  // namespace wick::text
