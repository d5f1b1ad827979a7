#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "text/normalizer.h"
#include "text/regex.h"
#include "wick/tokenizer.h"

namespace wick::text {

/// A token that is found in the text before the model sees it. The flags are the format's.
struct AddedToken {
  std::string content;
  std::string shown;  // what it decodes to: the content, normalized if `normalized`
  TokenId id = -1;
  bool single_word = false;  // not beside a letter, digit or underscore
  bool lstrip = false;       // takes the white space before it
  bool rstrip = false;       // takes the white space after it
  bool normalized = false;   // looked for in the normalized text, else in the text as given
  bool special = false;
};

/// The added tokens of a tokenizer: look-up both ways, and the search for them in text.
class AddedTokens {
 public:
  /// A part [begin, end) of a text, with the token that it is, if it is one.
  struct Part {
    std::size_t begin;
    std::size_t end;
    const AddedToken* token;
  };

  AddedTokens() = default;
  /// `normalize` is the tokenizer's normalizer. Contents and ids must each be without duplicates.
  AddedTokens(std::vector<AddedToken> tokens, const std::function<std::string(std::string_view)>& normalize);

  /// Cuts text at the tokens found from left to right, at each place the longest. The parts are appended to `out`, none
  /// of those without a token is empty. `in_normalized`: looks for the normalized tokens, else for the others.
  void split(std::string_view text, bool in_normalized, std::vector<Part>& out) const;

  const AddedToken* find(TokenId id) const;
  const AddedToken* find(std::string_view content) const;
  /// Whether a special token has this content.
  bool is_special(std::string_view content) const {
    const AddedToken* token = find(content);
    return token != nullptr && token->special;
  }
  const std::vector<AddedToken>& all() const { return tokens_; }

 private:
  // Patterns in lexicographic order: a walk through the text narrows a range of them, byte by byte.
  struct Finder {
    struct Pattern {
      std::string text;
      std::uint32_t token;
    };
    std::vector<Pattern> patterns;
    std::vector<bool> starts = std::vector<bool>(256);  // whether a pattern begins with this byte

    void finish();
    const Pattern* longest_at(std::string_view text, std::size_t position) const;
  };

  bool stands_alone(std::string_view text, std::size_t begin, std::size_t end) const;

  std::vector<AddedToken> tokens_;
  std::unordered_map<TokenId, std::uint32_t> by_id_;
  std::unordered_map<std::string, std::uint32_t> by_content_;
  Finder plain_;
  Finder normalized_;
  std::optional<Regex> word_;  // a word character; only made when a token needs it
};

}  // namespace wick::text
