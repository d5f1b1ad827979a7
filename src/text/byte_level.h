#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace wick::text {

/// GPT-2's byte-level alphabet: each byte is written as one printable character, so that a vocabulary of byte strings
/// can be kept as text. The 188 printable bytes of Latin-1 stand for themselves, the others, in order, for U+0100 and
/// what follows. Source: github.com/openai/gpt-2, encoder.py, bytes_to_unicode.
const std::array<char16_t, 256>& byte_level_alphabet();

/// Bytes written in the alphabet.
std::string to_byte_level(std::string_view bytes);

/// The bytes that a token (valid UTF-8) stands for; nothing if one of its characters is not in the alphabet.
std::optional<std::string> from_byte_level(std::string_view token);
/// The same, appended to `out`, which is left as it was when the answer is false.
bool append_from_byte_level(std::string& out, std::string_view token);

}  // namespace wick::text
