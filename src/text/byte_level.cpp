#include "text/byte_level.h"

#include "text/unicode.h"

namespace wick::text {
namespace {

constexpr bool stands_for_itself(unsigned byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

constexpr std::array<char16_t, 256> make_alphabet() {
  std::array<char16_t, 256> alphabet{};
  char16_t next = 0x100;
  for (unsigned byte = 0; byte < 256; ++byte) {
    alphabet[byte] = stands_for_itself(byte) ? static_cast<char16_t>(byte) : next++;
  }
  return alphabet;
}

constexpr std::array<char16_t, 256> kAlphabet = make_alphabet();
constexpr unsigned kAlphabetEnd = 0x100 + 68;

// From a character of the alphabet to its byte; -1 for what is not in it.
constexpr std::array<std::int16_t, kAlphabetEnd> make_inverse() {
  std::array<std::int16_t, kAlphabetEnd> inverse{};
  inverse.fill(-1);
  for (unsigned byte = 0; byte < 256; ++byte) inverse[kAlphabet[byte]] = static_cast<std::int16_t>(byte);
  return inverse;
}

constexpr std::array<std::int16_t, kAlphabetEnd> kInverse = make_inverse();

}  // namespace

const std::array<char16_t, 256>& byte_level_alphabet() { return kAlphabet; }

std::string to_byte_level(std::string_view bytes) {
  std::string out;
  for (const char byte : bytes) append_utf8(out, kAlphabet[static_cast<unsigned char>(byte)]);
  return out;
}

bool append_from_byte_level(std::string& out, std::string_view token) {
  const std::size_t before = out.size();
  out.resize(before + token.size());
  char* end = out.data() + before;
  for (std::size_t i = 0; i < token.size();) {
    const std::uint32_t code_point = next_code_point(token, i);
    if (code_point >= kAlphabetEnd || kInverse[code_point] < 0) {
      out.resize(before);
      return false;
    }
    *end++ = static_cast<char>(static_cast<unsigned char>(kInverse[code_point]));
  }
  out.resize(static_cast<std::size_t>(end - out.data()));
  return true;
}

std::optional<std::string> from_byte_level(std::string_view token) {
  std::string out;
  if (!append_from_byte_level(out, token)) return std::nullopt;
  return out;
}

}  // namespace wick::text
