#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

namespace wick::text {

/// A regular expression of a tokenizer.json (Oniguruma's syntax), run by PCRE2. The parts of the syntax whose meaning
/// the two share are translated; the others are refused with Error(unsupported). Immutable, usable from several
/// threads.
class Regex {
 public:
  /// `name` is the file, for messages. A pattern that is wrong is an Error(format).
  Regex(std::string_view pattern, const std::string& name);

  /// A pattern already in PCRE2's syntax.
  struct Pcre {};
  Regex(std::string_view pattern, Pcre, const std::string& name) : Regex(std::string(pattern), pattern, name) {}

  /// A pattern that matches exactly `text`.
  static Regex literal(std::string_view text, const std::string& name);

  struct Match {
    std::size_t begin;
    std::size_t end;
  };
  /// Goes through the matches in valid UTF-8, as Oniguruma's find_iter does: from left to right, without overlap, and
  /// no empty match right after another match.
  template <class Use>
  void for_each(std::string_view subject, Use&& use) const {
    std::size_t from = 0;
    bool any = false;
    std::size_t last_end = 0;
    while (from <= subject.size()) {
      const Match match = find(subject, from);
      if (match.begin == kNoMatch) return;
      if (match.begin == match.end && any && last_end == match.end) {
        from = after_character(subject, from);
        continue;
      }
      from = last_end = match.end;
      any = true;
      use(match.begin, match.end);
    }
  }
  /// Whether the pattern matches somewhere.
  bool matches(std::string_view subject) const { return find(subject, 0).begin != kNoMatch; }

 private:
  static constexpr std::size_t kNoMatch = static_cast<std::size_t>(-1);
  struct Code;
  Regex(std::string translated, std::string_view original, const std::string& name);
  Match find(std::string_view subject, std::size_t from) const;
  static std::size_t after_character(std::string_view subject, std::size_t from);

  std::shared_ptr<const Code> code_;
};

/// The PCRE2 spelling of an Oniguruma pattern.
std::string translate_regex(std::string_view pattern, const std::string& name);

}  // namespace wick::text
