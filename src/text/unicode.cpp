#include "text/unicode.h"

#include <algorithm>
#include <cstring>

namespace wick::text {

Utf8Step utf8_step(std::string_view bytes, std::size_t position) {
  const auto byte = [&](std::size_t i) { return static_cast<std::uint32_t>(static_cast<unsigned char>(bytes[i])); };
  const std::uint32_t first = byte(position);
  if (first < 0x80) return {Utf8Step::Kind::character, first, 1};
  std::size_t length = 0;
  std::uint32_t low = 0x80;  // what the second byte may be; the rest are 80..BF
  std::uint32_t high = 0xBF;
  std::uint32_t code_point = 0;
  if (first >= 0xC2 && first <= 0xDF) {
    length = 2;
    code_point = first & 0x1FU;
  } else if (first >= 0xE0 && first <= 0xEF) {
    length = 3;
    code_point = first & 0x0FU;
    if (first == 0xE0) low = 0xA0;
    if (first == 0xED) high = 0x9F;
  } else if (first >= 0xF0 && first <= 0xF4) {
    length = 4;
    code_point = first & 0x07U;
    if (first == 0xF0) low = 0x90;
    if (first == 0xF4) high = 0x8F;
  } else {
    return {Utf8Step::Kind::broken, 0, 1};
  }
  for (std::size_t i = 1; i < length; ++i) {
    if (position + i == bytes.size()) return {Utf8Step::Kind::incomplete, 0, i};
    const std::uint32_t next = byte(position + i);
    if (next < low || next > high) return {Utf8Step::Kind::broken, 0, i};
    code_point = code_point << 6 | (next & 0x3FU);
    low = 0x80;
    high = 0xBF;
  }
  return {Utf8Step::Kind::character, code_point, length};
}

void append_utf8(std::string& out, std::uint32_t code_point) {
  const auto put = [&](std::uint32_t byte) { out.push_back(static_cast<char>(static_cast<unsigned char>(byte))); };
  if (code_point < 0x80) {
    put(code_point);
  } else if (code_point < 0x800) {
    put(0xC0U | code_point >> 6);
    put(0x80U | (code_point & 0x3FU));
  } else if (code_point < 0x10000) {
    put(0xE0U | code_point >> 12);
    put(0x80U | (code_point >> 6 & 0x3FU));
    put(0x80U | (code_point & 0x3FU));
  } else {
    put(0xF0U | code_point >> 18);
    put(0x80U | (code_point >> 12 & 0x3FU));
    put(0x80U | (code_point >> 6 & 0x3FU));
    put(0x80U | (code_point & 0x3FU));
  }
}

std::size_t valid_prefix(std::string_view bytes) {
  std::size_t i = 0;
  while (i < bytes.size()) {
    // Eight ASCII bytes at a time: most text is.
    if (i + 8 <= bytes.size()) {
      std::uint64_t word = 0;
      std::memcpy(&word, bytes.data() + i, 8);
      if ((word & 0x8080808080808080ULL) == 0) {
        i += 8;
        continue;
      }
    }
    const Utf8Step step = utf8_step(bytes, i);
    if (step.kind != Utf8Step::Kind::character) return i;
    i += step.length;
  }
  return i;
}

std::size_t append_lossy(std::string& out, std::string_view bytes, bool keep_incomplete) {
  std::size_t done = 0;
  while (done < bytes.size()) {
    const std::size_t valid = valid_prefix(bytes.substr(done));
    out.append(bytes.substr(done, valid));
    done += valid;
    if (done == bytes.size()) break;
    const Utf8Step step = utf8_step(bytes, done);
    if (step.kind == Utf8Step::Kind::incomplete && keep_incomplete) break;
    out += "\xEF\xBF\xBD";
    done += step.length;
  }
  return done;
}

bool is_white_space(std::uint32_t c) {
  return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

}  // namespace wick::text
