#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace wick::text::jinja {

struct Token {
  enum class Kind {
    text,
    statement_begin,
    statement_end,
    output_begin,
    output_end,
    name,
    string,
    integer,
    real,
    op,
    end
  };
  Kind kind;
  std::string text;  // of a string: its value, without quotes and escapes
  std::size_t line;
};

/// Cuts a template into tokens as Jinja does with trim_blocks and lstrip_blocks; the last one is Kind::end.
/// Error(format) with "line N: ..." for what is no template.
std::vector<Token> tokenize(std::string_view source);

}  // namespace wick::text::jinja
