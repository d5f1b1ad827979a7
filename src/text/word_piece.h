#pragma once

#include <string>
#include <vector>

#include "text/model.h"
#include "text/vocab.h"

namespace wick::text {

/// WordPiece as BERT has it (Schuster and Nakajima 2012; Devlin et al. 2018): a word is cut, from its start, into the
/// longest tokens there are. A word that cannot be cut so is one unknown token.
class WordPieceModel final : public Model {
 public:
  struct Options {
    std::string prefix;           // what a token that continues a word begins with in the file
    std::uint64_t max_input = 0;  // a word of more characters is unknown
    TokenId unk_token = -1;
  };

  /// `vocab` holds the tokens that begin with the prefix without it and with tag true, the others with tag false.
  WordPieceModel(Vocab vocab, Options options);

  void encode(std::string_view piece, std::vector<ModelToken>& out) const override;
  std::optional<TokenId> token_to_id(std::string_view token) const override;
  std::optional<std::string> id_to_token(TokenId id) const override;
  std::size_t vocab_size() const override { return vocab_.size(); }
  /// Appends the token as the file spells it.
  void append_bytes(std::string& out, TokenId id) const override;

 private:
  bool too_long(std::string_view piece) const;

  Vocab vocab_;
  Options options_;
  std::size_t longest_ = 0;  // bytes of the longest token
};

}  // namespace wick::text
