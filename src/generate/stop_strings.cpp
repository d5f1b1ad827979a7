#include "generate/stop_strings.h"

#include <algorithm>
#include <utility>

namespace wick {

std::string StopStrings::push(std::string_view piece) {
  held_ += piece;
  std::size_t first_end = std::string::npos;
  std::size_t begin = 0;
  for (const std::string& string : strings_) {
    const std::size_t at = held_.find(string);
    if (at == std::string::npos) continue;
    const std::size_t end = at + string.size();
    if (end < first_end || (end == first_end && at < begin)) {
      first_end = end;
      begin = at;
    }
  }
  if (first_end != std::string::npos) {
    found_ = true;
    return std::exchange(held_, {}).substr(0, begin);
  }
  std::size_t hold = 0;
  for (const std::string& string : strings_) {
    std::size_t length = std::min(string.size() - 1, held_.size());
    while (length > hold && !std::string_view(held_).ends_with(std::string_view(string).substr(0, length))) --length;
    hold = std::max(hold, length);
  }
  std::string certain = held_.substr(0, held_.size() - hold);
  held_.erase(0, certain.size());
  return certain;
}

std::string StopStrings::finish() { return std::exchange(held_, {}); }

}  // namespace wick
