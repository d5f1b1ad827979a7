#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "lora/origin.h"

struct pcre2_real_code_8;

namespace wick::lora {

/// A regular expression over module names with the meaning of Python's `re`, run by PCRE2 within a fixed budget, so
/// that a hostile one is an error and not a hang.
class Pattern {
 public:
  enum class Mode {
    full,   ///< re.fullmatch
    start,  ///< re.match
  };

  /// `option` is the configuration key it stands in and `shown` what the person wrote there, for messages.
  Pattern(const Origin& origin, std::string_view option, std::string_view shown, std::string_view regex, Mode mode);

  /// Errors with the origin's code when the budget is spent.
  bool matches(std::string_view name) const;
  /// What the group `group` matched; nothing when the pattern does not match.
  std::optional<std::string> group(std::string_view name, const char* group) const;

 private:
  template <class Use>
  bool match(std::string_view name, Use&& use) const;

  Origin origin_;
  std::string shown_;  // target_modules "...", for messages
  std::shared_ptr<const pcre2_real_code_8> code_;
};

}  // namespace wick::lora
