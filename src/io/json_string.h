#pragma once

#include <string>
#include <string_view>

namespace wick {

/// Which characters become escapes besides those that must (quotes, backslashes, controls below U+0020).
enum class JsonEscapes {
  needed,  ///< none, as serde_json and Python's json with ensure_ascii=False write strings
  ascii    ///< all but printable ASCII, as Python's json does by default
};

/// Appends `text`, valid UTF-8, as a JSON string in its quotes.
void append_json_string(std::string& out, std::string_view text, JsonEscapes escapes);

}  // namespace wick
