#pragma once

#include <optional>
#include <string>

namespace wick::text {

/// How words become text: with spaces between them, but none before a token that continues a word.
struct WordDecoder {
  std::optional<std::string> prefix;  // what such a token begins with; vanishes. Nothing: every token is a word
  bool cleanup = false;               // takes the spaces before punctuation and English contractions out

  /// Appends a token. `first`: nothing stands before it.
  void append(std::string& out, std::string token, bool first) const;
};

}  // namespace wick::text
