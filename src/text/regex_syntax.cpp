// Oniguruma's regular expressions (Ruby syntax, UTF-8), spelled for PCRE2 (UTF, UCP, MULTILINE, newline LF). What means
// the same passes through; what differs is rewritten; what is not known to mean the same is refused.
#include <fmt/format.h>

#include <array>
#include <optional>

#include "core/fail.h"
#include "text/regex.h"

namespace wick::text {
namespace {

// White_Space, and its complement, inside a class. PCRE2's own \s has U+180E besides.
constexpr std::string_view kSpace =
    "\\x09-\\x0d\\x20\\x85\\xa0\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}";
constexpr std::string_view kNotSpace =
    "\\x00-\\x08\\x0e-\\x1f\\x21-\\x84\\x86-\\x9f\\xa1-\\x{167f}\\x{1681}-\\x{1fff}\\x{200b}-\\x{2027}\\x{202a}-"
    "\\x{202e}\\x{2030}-\\x{205e}\\x{2060}-\\x{2fff}\\x{3001}-\\x{10ffff}";

constexpr std::array<std::string_view, 37> kCategories = {
    "C",  "Cc", "Cf", "Cn", "Co", "Cs", "L",  "Ll", "Lm", "Lo", "Lt", "Lu", "M",  "Mc", "Me", "Mn", "N",  "Nd", "Nl",
    "No", "P",  "Pc", "Pd", "Pe", "Pf", "Pi", "Po", "Ps", "S",  "Sc", "Sk", "Sm", "So", "Z",  "Zl", "Zp", "Zs"};

class Translator {
 public:
  Translator(std::string_view pattern, const std::string& name) : pattern_(pattern), name_(name) {}

  std::string run() {
    if (rest().starts_with("(?i)")) take(4);
    while (!done()) {
      const char c = pattern_[at_];
      if (c == '\\') {
        escape(false);
      } else if (c == '[') {
        character_class();
      } else if (c == '(') {
        group();
      } else if (c == '{') {
        brace();
      } else if (c == '*' || c == '+' || c == '?') {
        take(1);
        // a*? and a*+ mean the same in both; a further sign does not.
        if (!done() && (peek() == '?' || peek() == '+')) take(1);
        if (!done() && (peek() == '*' || peek() == '?' || peek() == '+')) refuse("a repeat of a repeat");
      } else {
        take(1);  // literals, | ) . ^ $
      }
    }
    return std::move(out_);
  }

 private:
  bool done() const { return at_ >= pattern_.size(); }
  char peek() const { return pattern_[at_]; }
  std::string_view rest() const { return pattern_.substr(at_); }
  void take(std::size_t count) {
    out_ += pattern_.substr(at_, count);
    at_ += count;
  }
  [[noreturn]] void refuse(std::string_view what) const {
    fail(ErrorCode::unsupported, "{}: the regular expression \"{}\" uses {}, which is not supported", name_, pattern_,
         what);
  }
  [[noreturn]] void broken(std::string_view what) const {
    fail(ErrorCode::format, "{}: the regular expression \"{}\" {}", name_, pattern_, what);
  }

  static bool is_digit(char c) { return c >= '0' && c <= '9'; }
  static bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
  static bool is_hex(char c) { return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'); }

  void escape(bool in_class) {
    if (at_ + 1 >= pattern_.size()) broken("ends in a backslash");
    const char c = pattern_[at_ + 1];
    switch (c) {
      case 's':
      case 'S': {
        const std::string_view set = c == 's' ? kSpace : kNotSpace;
        if (in_class) {
          out_ += set;
        } else {
          out_ += fmt::format("[{}]", set);
        }
        at_ += 2;
        return;
      }
      case 'd':
      case 'D':
        out_ += c == 'd' ? "\\p{Nd}" : "\\P{Nd}";
        at_ += 2;
        return;
      case 'p':
      case 'P':
        return property();
      case 'x':
      case 'u':
        return code_point(c);
      case 'n':
      case 'r':
      case 't':
      case 'f':
        return take(2);
      case 'v':  // a vertical tab here, any vertical space in PCRE2
        out_ += "\\x0b";
        at_ += 2;
        return;
      case 'A':
      case 'z':
        if (in_class) break;
        return take(2);
      default:
        break;
    }
    if (is_letter(c) || is_digit(c) || static_cast<unsigned char>(c) >= 0x80) refuse(fmt::format("\\{}", c));
    take(2);
  }

  void property() {
    const std::size_t end = pattern_.find('}', at_);
    if (at_ + 2 >= pattern_.size() || pattern_[at_ + 2] != '{' || end == std::string_view::npos) {
      refuse("\\p without {name}");
    }
    std::string_view value = pattern_.substr(at_ + 3, end - at_ - 3);
    bool negated = pattern_[at_ + 1] == 'P';
    if (value.starts_with('^')) {
      negated = !negated;
      value.remove_prefix(1);
    }
    out_ += negated ? "\\P{" : "\\p{";
    bool category = false;
    for (const std::string_view known : kCategories) category = category || known == value;
    if (!category) {
      for (const char c : value) {
        if (!is_letter(c) && c != '_') refuse(fmt::format("the property {}", value));
      }
      if (value.size() < 3) refuse(fmt::format("the property {}", value));
      out_ += "sc:";  // a script; PCRE2's plain \p{Han} is the wider Script_Extensions
    }
    out_ += value;
    out_ += '}';
    at_ = end + 1;
  }

  void code_point(char kind) {
    std::size_t begin = at_ + 2;
    std::size_t end = begin;
    if (kind == 'x' && begin < pattern_.size() && pattern_[begin] == '{') {
      end = pattern_.find('}', begin);
      if (end == std::string_view::npos) broken("has \\x{ without }");
      out_ += fmt::format("\\x{}}}", pattern_.substr(begin, end - begin));
      at_ = end + 1;
      return;
    }
    const std::size_t most = kind == 'x' ? 2 : 4;
    while (end < pattern_.size() && end - begin < most && is_hex(pattern_[end])) ++end;
    if (end - begin != most) broken(fmt::format("has \\{} without {} hexadecimal digits", kind, most));
    // \x80 and above would be a byte to Oniguruma, not a character.
    if (kind == 'x' && pattern_[begin] >= '8') refuse("\\x80 to \\xff");
    out_ += fmt::format("\\x{{{}}}", pattern_.substr(begin, most));
    at_ = end;
  }

  void character_class() {
    take(1);
    if (!done() && peek() == '^') take(1);
    if (!done() && peek() == ']') refuse("a class that starts with ]");
    while (true) {
      if (done()) broken("has [ without ]");
      const char c = peek();
      if (c == ']') return take(1);
      if (c == '[') refuse("a class inside a class");
      if (rest().starts_with("&&")) refuse("&& in a class");
      if (c == '\\') {
        escape(true);
      } else {
        take(1);
      }
    }
  }

  void group() {
    if (!rest().starts_with("(?")) return take(1);
    for (const std::string_view known : {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:", "(?-i:"}) {
      if (rest().starts_with(known)) return take(known.size());
    }
    refuse(fmt::format("\"{}\"", rest().substr(0, 4)));
  }

  // {n}, {n,}, {,m} and {n,m} repeat; any other { is a literal.
  void brace() {
    std::size_t end = at_ + 1;
    const std::size_t low = end;
    while (end < pattern_.size() && is_digit(pattern_[end])) ++end;
    const std::string_view minimum = pattern_.substr(low, end - low);
    std::string_view maximum = minimum;
    bool comma = false;
    if (end < pattern_.size() && pattern_[end] == ',') {
      comma = true;
      const std::size_t high = ++end;
      while (end < pattern_.size() && is_digit(pattern_[end])) ++end;
      maximum = pattern_.substr(high, end - high);
    }
    if (end >= pattern_.size() || pattern_[end] != '}' || (minimum.empty() && maximum.empty())) {
      out_ += "\\{";
      ++at_;
      return;
    }
    out_ += comma ? fmt::format("{{{},{}}}", minimum.empty() ? "0" : minimum, maximum) : fmt::format("{{{}}}", minimum);
    at_ = end + 1;
    if (done()) return;
    if (peek() == '?' && comma) return take(1);
    if (peek() == '?' || peek() == '+' || peek() == '*') refuse("a repeat of a repeat");
  }

  std::string_view pattern_;
  const std::string& name_;
  std::size_t at_ = 0;
  std::string out_;
};

}  // namespace

std::string translate_regex(std::string_view pattern, const std::string& name) {
  return Translator(pattern, name).run();
}

}  // namespace wick::text
