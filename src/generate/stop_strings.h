#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace wick {

/// Looks for stop strings in a text that arrives in pieces, and holds back what could still become one. What it finds
/// does not depend on where the pieces are cut.
class StopStrings {
 public:
  explicit StopStrings(std::vector<std::string> strings) : strings_(std::move(strings)) {}

  /// Takes the next piece and returns the text that is certain to lie outside every stop string: up to the string that
  /// is complete first (the longest of those that end there) once found() is true.
  std::string push(std::string_view piece);
  /// Returns what was held back; the text has ended.
  std::string finish();
  bool found() const noexcept { return found_; }

 private:
  std::vector<std::string> strings_;
  std::string held_;  // no string is complete in here; shorter than the longest string
  bool found_ = false;
};

}  // namespace wick
