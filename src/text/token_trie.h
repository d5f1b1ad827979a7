#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "wick/tokenizer.h"

namespace wick::text {

/// A set of byte strings with ids, made for one question: which of them does a text begin with. A double-array trie
/// (Aoe 1989, with XOR in place of addition as in Yata's Darts-clone): a step is one look-up.
class TokenTrie {
 public:
  TokenTrie() : TokenTrie(std::span<const std::string_view>{}) {}
  /// The id of a string is its index; of equal strings the last one counts. An empty string is never found.
  explicit TokenTrie(std::span<const std::string_view> tokens);

  /// Calls use(length, id) for each string that `text` begins with, the shortest first. Reads no more bytes than the
  /// longest string has, plus one.
  template <class Use>
  void for_each_prefix(std::string_view text, Use&& use) const {
    std::uint32_t node = 0;
    for (std::size_t i = 0; i < text.size(); ++i) {
      const std::uint32_t child = units_[node].base ^ static_cast<unsigned char>(text[i]);
      if (units_[child].parent != node) return;
      node = child;
      if (units_[node].id >= 0) use(i + 1, units_[node].id);
    }
  }
  /// The id of `text`, -1 if it is not in the set.
  TokenId find(std::string_view text) const;

 private:
  // In the place of a parent.
  static constexpr std::uint32_t kFree = 0xFFFFFFFFU;
  static constexpr std::uint32_t kRoot = 0xFFFFFFFEU;
  // The children of a node lie at base ^ byte. Units come in blocks of 256, so all of these exist.
  struct Unit {
    std::uint32_t base = 0;
    std::uint32_t parent = kFree;
    TokenId id = -1;
  };
  class Builder;

  std::vector<Unit> units_;
};

}  // namespace wick::text
