#pragma once

#include <string>
#include <string_view>

namespace wick {

/// `text` in double quotes, fit for an error message: control characters and bytes that are not UTF-8 are escaped, and
/// what is longer than `limit` bytes is cut, so that a name from a hostile file can neither flood nor steer a terminal.
std::string quote(std::string_view text, std::size_t limit = 120);

/// How many of the first bytes of `text` are valid UTF-8 (all of them: text.size()).
std::size_t valid_utf8_prefix(std::string_view text) noexcept;

}  // namespace wick
