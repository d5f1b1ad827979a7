#pragma once

#include <string_view>

#include "text/chat_template_syntax.h"

namespace wick::text::jinja {

/// Parses a template, valid UTF-8. Error(format) or Error(unsupported) with "line N: ...".
Block parse_template(std::string_view source);

}  // namespace wick::text::jinja
