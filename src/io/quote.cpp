#include "io/quote.h"

#include <fmt/format.h>

#include <cstdint>
#include <iterator>

namespace wick {
namespace {

// Bytes of the UTF-8 character that `text` starts with; 0 where it starts with none. Unicode 15, table 3-7.
std::size_t utf8_character(std::string_view text) noexcept {
  const auto byte = [&](std::size_t i) { return i < text.size() ? static_cast<std::uint8_t>(text[i]) : 0U; };
  const auto continues = [&](std::size_t i) { return (byte(i) & 0xc0U) == 0x80U; };
  const unsigned lead = byte(0);
  if (lead < 0x80) return text.empty() ? 0 : 1;
  if (lead >= 0xc2 && lead <= 0xdf) return continues(1) ? 2 : 0;
  if (lead >= 0xe0 && lead <= 0xef) {
    const bool overlong = lead == 0xe0 && byte(1) < 0xa0;
    const bool surrogate = lead == 0xed && byte(1) > 0x9f;
    return continues(1) && continues(2) && !overlong && !surrogate ? 3 : 0;
  }
  if (lead >= 0xf0 && lead <= 0xf4) {
    const bool overlong = lead == 0xf0 && byte(1) < 0x90;
    const bool too_large = lead == 0xf4 && byte(1) > 0x8f;
    return continues(1) && continues(2) && continues(3) && !overlong && !too_large ? 4 : 0;
  }
  return 0;
}

// C1 controls (U+0080..U+009F) move a terminal's cursor like the ASCII ones do.
bool is_control(std::string_view character) {
  const auto first = static_cast<std::uint8_t>(character[0]);
  if (character.size() == 1) return first < 0x20 || first == 0x7f;
  return first == 0xc2 && static_cast<std::uint8_t>(character[1]) < 0xa0;
}

}  // namespace

std::size_t valid_utf8_prefix(std::string_view text) noexcept {
  std::size_t position = 0;
  while (position < text.size()) {
    const std::size_t length = utf8_character(text.substr(position));
    if (length == 0) break;
    position += length;
  }
  return position;
}

std::string quote(std::string_view text, std::size_t limit) {
  std::string out = "\"";
  std::size_t position = 0;
  while (position < text.size() && out.size() < limit) {
    const std::size_t length = utf8_character(text.substr(position));
    const std::string_view character = text.substr(position, length == 0 ? 1 : length);
    if (length == 0 || is_control(character)) {
      for (const char c : character) fmt::format_to(std::back_inserter(out), "\\x{:02x}", static_cast<std::uint8_t>(c));
    } else {
      out += character;
    }
    position += character.size();
  }
  out += position < text.size() ? "\"..." : "\"";
  return out;
}

}  // namespace wick
