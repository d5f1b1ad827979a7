#include "io/json_string.h"

#include <fmt/format.h>

#include <cstdint>
#include <iterator>

namespace wick {
namespace {

// The UTF-16 escapes of one code point: \u00e9, or a surrogate pair.
void append_escape(std::string& out, std::uint32_t code_point) {
  if (code_point >= 0x10000) {
    append_escape(out, 0xd800 + ((code_point - 0x10000) >> 10));
    code_point = 0xdc00 + ((code_point - 0x10000) & 0x3ffU);
  }
  fmt::format_to(std::back_inserter(out), "\\u{:04x}", code_point);
}

// The code point at `position`, which moves behind it.
std::uint32_t decode(std::string_view valid, std::size_t& position) {
  const auto lead = static_cast<std::uint8_t>(valid[position]);
  const std::size_t length = lead < 0x80 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
  std::uint32_t code_point = length == 1 ? lead : lead & (0x7fU >> length);
  for (std::size_t k = 1; k < length; ++k) {
    code_point = (code_point << 6) | (static_cast<std::uint8_t>(valid[position + k]) & 0x3fU);
  }
  position += length;
  return code_point;
}

}  // namespace

void append_json_string(std::string& out, std::string_view text, JsonEscapes escapes) {
  constexpr std::string_view kShort = "\"\\\n\r\t\b\f";
  constexpr std::string_view kLetters = "\"\\nrtbf";
  out += '"';
  for (std::size_t i = 0; i < text.size();) {
    const char c = text[i];
    const auto byte = static_cast<std::uint8_t>(c);
    if (const std::size_t known = kShort.find(c); known != std::string_view::npos) {
      out += '\\';
      out += kLetters[known];
      ++i;
    } else if (byte < 0x20 || (byte >= 0x7f && escapes == JsonEscapes::ascii)) {
      append_escape(out, decode(text, i));
    } else {
      out += c;
      ++i;
    }
  }
  out += '"';
}

}  // namespace wick
