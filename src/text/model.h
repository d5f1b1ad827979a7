#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "wick/tokenizer.h"

namespace wick::text {

/// A token of a piece of text: its id and the bytes [begin, end) of the piece that it covers.
struct ModelToken {
  TokenId id;
  std::uint32_t begin;
  std::uint32_t end;
};

/// What cuts the pieces that the pre-tokenizer makes into tokens. Immutable and usable from several threads.
class Model {
 public:
  virtual ~Model() = default;

  /// Appends the tokens of a piece (valid UTF-8, not empty, less than 4 GiB).
  virtual void encode(std::string_view piece, std::vector<ModelToken>& out) const = 0;

  /// Tokens as the file spells them.
  virtual std::optional<TokenId> token_to_id(std::string_view token) const = 0;
  virtual std::optional<std::string> id_to_token(TokenId id) const = 0;
  virtual std::size_t vocab_size() const = 0;
  /// Appends what a token decodes to, which need not be whole characters; nothing for an unknown id.
  virtual void append_bytes(std::string& out, TokenId id) const = 0;
};

}  // namespace wick::text
