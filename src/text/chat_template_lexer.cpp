#include "text/chat_template_lexer.h"

#include <algorithm>
#include <array>

#include "core/fail.h"
#include "io/quote.h"
#include "text/chat_template_value.h"
#include "text/unicode.h"

namespace wick::text::jinja {
namespace {

using Kind = Token::Kind;

// CRLF and CR become LF, and one newline at the end is dropped.
std::string normalize_newlines(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (std::size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      out += '\n';
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    } else {
      out += source[i];
    }
  }
  if (out.ends_with('\n')) out.pop_back();
  return out;
}

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_name_start(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }

class Lexer {
 public:
  explicit Lexer(std::string_view source) : source_(normalize_newlines(source)) {}

  std::vector<Token> run() {
    while (at_ < source_.size()) {
      const std::size_t tag = find_tag(at_);
      std::string_view text = std::string_view(source_).substr(at_, tag - at_);
      if (tag == source_.size()) {
        add_text(text);
        break;
      }
      const char type = source_[tag + 1];
      const char sign = tag + 2 < source_.size() ? source_[tag + 2] : '\0';
      strip_before(text, sign, type != '{');
      add_text(text);
      advance_to(tag + (sign == '-' || sign == '+' ? 3 : 2));
      if (type == '#') {
        skip_comment();
      } else if (type == '%' && starts_raw()) {
        read_raw();
      } else {
        read_tag(type);
      }
    }
    add(Kind::end, "");
    return std::move(tokens_);
  }

 private:
  [[noreturn]] void error(std::string_view what) const { fail(ErrorCode::format, "line {}: {}", line_, what); }

  void add(Kind kind, std::string text) { tokens_.push_back({kind, std::move(text), line_}); }
  void add_text(std::string_view text) {
    if (!text.empty()) add(Kind::text, std::string(text));
  }

  void advance_to(std::size_t end) {
    const auto begin = source_.begin();
    line_ += static_cast<std::size_t>(
        std::count(begin + static_cast<std::ptrdiff_t>(at_), begin + static_cast<std::ptrdiff_t>(end), '\n'));
    line_starting_ = end > 0 && source_[end - 1] == '\n';
    at_ = end;
  }

  std::size_t find_tag(std::size_t from) const {
    for (std::size_t at = source_.find('{', from); at != std::string::npos; at = source_.find('{', at + 1)) {
      const char next = at + 1 < source_.size() ? source_[at + 1] : '\0';
      if (next == '{' || next == '%' || next == '#') return at;
    }
    return source_.size();
  }

  // What whitespace control takes off the end of the text before a tag.
  void strip_before(std::string_view& text, char sign, bool block) const {
    if (sign == '-') {
      text = strip(text, false, true);
    } else if (sign != '+' && block) {
      const std::size_t newline = text.rfind('\n');
      if (newline == std::string_view::npos && !line_starting_) return;
      const std::size_t line = newline == std::string_view::npos ? 0 : newline + 1;
      if (strip(text.substr(line), true, false).empty()) text = text.substr(0, line);
    }
  }

  std::size_t skip_space(std::size_t at) const {
    while (at < source_.size()) {
      std::size_t next = at;
      if (!is_space(next_code_point(source_, next))) break;
      at = next;
    }
    return at;
  }

  bool at(std::size_t position, std::string_view text) const {
    return source_.compare(position, text.size(), text) == 0;
  }

  // Moves behind the end of a tag at `end`, which is `size` characters with its sign, and the whitespace it takes
  // along.
  void leave_tag(std::size_t end, std::size_t size, char sign, bool trim_newline) {
    std::size_t next = end + size;
    if (sign == '-') {
      next = skip_space(next);
    } else if (sign != '+' && trim_newline && next < source_.size() && source_[next] == '\n') {
      ++next;
    }
    advance_to(next);
  }

  void skip_comment() {
    const std::size_t end = source_.find("#}", at_);
    if (end == std::string::npos) error("a comment without an end");
    const char sign = end > at_ ? source_[end - 1] : '\0';
    leave_tag(end, 2, sign, true);
  }

  bool starts_raw() const {
    std::size_t position = skip_space(at_);
    if (!at(position, "raw")) return false;
    position = skip_space(position + 3);
    return at(position, "%}") || at(position, "-%}");
  }

  void read_raw() {
    const std::size_t end = source_.find("%}", at_);
    leave_tag(end, 2, source_[end - 1], false);
    for (std::size_t tag = source_.find("{%", at_); tag != std::string::npos; tag = source_.find("{%", tag + 2)) {
      const char sign = tag + 2 < source_.size() ? source_[tag + 2] : '\0';
      std::size_t position = skip_space(tag + (sign == '-' || sign == '+' ? 3 : 2));
      if (!at(position, "endraw")) continue;
      position = skip_space(position + 6);
      const char end_sign = position < source_.size() ? source_[position] : '\0';
      if (end_sign == '-' || end_sign == '+') ++position;
      if (!at(position, "%}")) continue;
      std::string_view text = std::string_view(source_).substr(at_, tag - at_);
      strip_before(text, sign, true);
      add_text(text);
      leave_tag(position, 2, end_sign, true);
      return;
    }
    error("raw without endraw");
  }

  void read_tag(char type) {
    const bool block = type == '%';
    const std::string_view close = block ? "%}" : "}}";
    add(block ? Kind::statement_begin : Kind::output_begin, "");
    std::string brackets;
    for (;;) {
      advance_to(skip_space(at_));
      if (at_ >= source_.size()) error("a tag without an end");
      if (brackets.empty()) {
        const char sign = source_[at_];
        const std::size_t signed_size = sign == '-' || (sign == '+' && block) ? 1 : 0;
        if (at(at_ + signed_size, close)) {
          add(block ? Kind::statement_end : Kind::output_end, "");
          leave_tag(at_, signed_size + 2, signed_size == 1 ? sign : '\0', block);
          return;
        }
      }
      read_token(brackets);
    }
  }

  void read_token(std::string& brackets) {
    const char c = source_[at_];
    if (is_name_start(c)) {
      std::size_t end = at_;
      while (end < source_.size() && (is_name_start(source_[end]) || is_digit(source_[end]))) ++end;
      add(Kind::name, source_.substr(at_, end - at_));
      advance_to(end);
    } else if (is_digit(c)) {
      read_number();
    } else if (c == '"' || c == '\'') {
      read_string();
    } else {
      read_operator(brackets);
    }
  }

  void read_number() {
    std::size_t end = at_;
    std::string digits;
    bool real = false;
    const auto take_digits = [&] {
      for (; end < source_.size(); ++end) {
        const bool separator = source_[end] == '_' && end + 1 < source_.size() && is_digit(source_[end + 1]);
        if (!is_digit(source_[end]) && !separator) break;
        if (!separator) digits += source_[end];
      }
    };
    const auto digit_at = [&](std::size_t i) { return i < source_.size() && is_digit(source_[i]); };
    take_digits();
    // After a dot, "x.0.1" subscripts twice.
    const bool after_dot = !tokens_.empty() && tokens_.back().kind == Kind::op && tokens_.back().text == ".";
    if (!after_dot && at(end, ".") && digit_at(end + 1)) {
      real = true;
      digits += source_[end++];
      take_digits();
    }
    if (!after_dot && (at(end, "e") || at(end, "E"))) {
      const std::size_t sign = at(end + 1, "+") || at(end + 1, "-") ? 1 : 0;
      if (digit_at(end + 1 + sign)) {
        real = true;
        digits += source_.substr(end, 1 + sign);
        end += 1 + sign;
        take_digits();
      }
    }
    if (end < source_.size() && is_name_start(source_[end])) error("a number that runs into a name");
    if (!real && digits.size() > 1 && digits.find_first_not_of('0') != std::string::npos && digits[0] == '0') {
      error("a number that starts with 0");
    }
    add(real ? Kind::real : Kind::integer, std::move(digits));
    advance_to(end);
  }

  void read_string() {
    const char delimiter = source_[at_];
    std::string value;
    std::size_t i = at_ + 1;
    for (;; ++i) {
      if (i >= source_.size()) error("a string without an end");
      if (source_[i] == delimiter) break;
      if (source_[i] != '\\') {
        value += source_[i];
      } else if (++i < source_.size()) {
        i = read_escape(i, value);
      }
    }
    add(Kind::string, std::move(value));
    advance_to(i + 1);
  }

  // Appends what the escape at `i` (behind the backslash) stands for; returns its last character.
  std::size_t read_escape(std::size_t i, std::string& value) const {
    constexpr std::string_view kLetters = "abfnrtv\\'\"";
    constexpr std::string_view kMeanings = "\a\b\f\n\r\t\v\\'\"";
    const char c = source_[i];
    if (const auto known = kLetters.find(c); known != std::string_view::npos) {
      value += kMeanings[known];
    } else if (c >= '0' && c <= '7') {
      std::uint32_t code = 0;
      std::size_t end = i;
      for (; end < source_.size() && end < i + 3 && source_[end] >= '0' && source_[end] <= '7'; ++end) {
        code = code * 8 + static_cast<std::uint32_t>(source_[end] - '0');
      }
      append_utf8(value, code);
      return end - 1;
    } else if (c == 'x' || c == 'u' || c == 'U') {
      const std::size_t digits = c == 'x' ? 2 : (c == 'u' ? 4 : 8);
      std::uint32_t code = 0;
      for (std::size_t k = 1; k <= digits; ++k) {
        constexpr std::string_view kHex = "0123456789abcdef";
        const char letter = i + k < source_.size() ? source_[i + k] : '\0';
        const char lower = letter >= 'A' && letter <= 'F' ? static_cast<char>(letter - 'A' + 'a') : letter;
        const auto digit = lower == '\0' ? std::string_view::npos : kHex.find(lower);
        if (digit == std::string_view::npos) error("a broken \\x, \\u or \\U in a string");
        code = code * 16 + static_cast<std::uint32_t>(digit);
      }
      if (code > 0x10FFFF || (code >= 0xD800 && code <= 0xDFFF)) error("a \\u or \\U that is no character");
      append_utf8(value, code);
      return i + digits;
    } else if (c == 'N') {
      fail(ErrorCode::unsupported, "line {}: characters by name (\\N) are not supported", line_);
    } else if (c != '\n') {  // a backslash before a newline joins the lines; before any other character it stays
      value += '\\';
      value += c;
    }
    return i;
  }

  void read_operator(std::string& brackets) {
    static constexpr std::array<std::string_view, 27> kOperators = {"==", "!=", "<=", ">=", "//", "**", "+", "-", "*",
                                                                    "/",  "%",  "~",  "<",  ">",  "=",  "(", ")", "[",
                                                                    "]",  "{",  "}",  ",",  ":",  ".",  "|", ";", "!"};
    for (const std::string_view op : kOperators) {
      if (!at(at_, op)) continue;
      if (op == "(") brackets += ')';
      if (op == "[") brackets += ']';
      if (op == "{") brackets += '}';
      if (op == ")" || op == "]" || op == "}") {
        if (brackets.empty() || brackets.back() != op[0]) error(fmt::format("an unexpected \"{}\"", op));
        brackets.pop_back();
      }
      add(Kind::op, std::string(op));
      advance_to(at_ + op.size());
      return;
    }
    std::size_t end = at_;
    next_code_point(source_, end);
    error("an unexpected " + quote(std::string_view(source_).substr(at_, end - at_)));
  }

  std::string source_;
  std::size_t at_ = 0;
  std::size_t line_ = 1;
  bool line_starting_ = true;  // nothing but a newline, or nothing at all, stands before at_
  std::vector<Token> tokens_;
};

}  // namespace

std::vector<Token> tokenize(std::string_view source) { return Lexer(source).run(); }

}  // namespace wick::text::jinja
