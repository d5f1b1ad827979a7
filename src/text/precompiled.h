#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "text/json_value.h"
#include "text/normalizer.h"

namespace wick::text {

/// The normalizer of a sentencepiece model: a trie from character sequences to what replaces them. In the file it is
/// base64 of [size of the trie in bytes, u32][a Darts-clone double array of u32][the replacements, UTF-8, each with a
/// zero byte behind], all little-endian. Source: github.com/google/sentencepiece, normalizer.cc.
///
/// It is applied as the `tokenizers` library does: to each grapheme cluster of less than six bytes as a whole, of which
/// the shortest prefix in the trie decides, else to each character.
class Precompiled {
 public:
  /// Everything that the trie can lead to is checked here.
  explicit Precompiled(const JsonValue& charsmap);

  /// Returns false, and leaves `out` alone, when nothing is replaced. Origins as in normalize().
  bool normalize(std::string_view text, bool with_origins, Normalized& out) const;

 private:
  struct Edits;

  void check(const JsonValue& charsmap) const;
  std::string_view replacement_at(std::size_t position) const;
  // What replaces `part`; nothing if it stays. `found` tells an empty replacement from none.
  std::string_view replacement(std::string_view part, bool& found) const;

  std::vector<std::uint32_t> units_;
  std::string replacements_;
  std::array<bool, 128> plain_{};  // ASCII characters that stay as they are
};

}  // namespace wick::text
