#pragma once

#include <map>
#include <string>

#include "text/chat_template_syntax.h"

namespace wick::text::jinja {

using Variables = std::map<std::string, Value, std::less<>>;

/// Renders a parsed template. Errors begin with "line N: ".
std::string render_template(const Block& block, Variables variables, Budget& budget);

}  // namespace wick::text::jinja
