#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "text/bpe_merge.h"
#include "text/model.h"
#include "text/vocab.h"

namespace wick::text {

/// Byte pair encoding over characters, as sentencepiece's BPE models are written down (Llama 2, Mistral). A character
/// without a token is spelled with the tokens <0x00> to <0xFF> (byte fallback) or becomes the unknown token.
class CharacterBpeModel final : public Model {
 public:
  struct Options {
    bool ignore_merges = false;        // a piece that is a token is that token, whatever the merges say
    bool byte_fallback = false;        // where all bytes of a character have tokens
    bool fuse_unk = false;             // unknown characters in a row are one unknown token
    std::optional<TokenId> unk_token;  // without it unknown characters vanish
  };

  /// `vocab` holds the tokens as the file spells them, with tag false; none that is merged is empty.
  CharacterBpeModel(Vocab vocab, MergeTable merges, const Options& options);

  void encode(std::string_view piece, std::vector<ModelToken>& out) const override;
  std::optional<TokenId> token_to_id(std::string_view token) const override { return vocab_.find(token, false); }
  std::optional<std::string> id_to_token(TokenId id) const override;
  std::size_t vocab_size() const override { return vocab_.size(); }
  void append_bytes(std::string& out, TokenId id) const override;

 private:
  TokenId id_of(std::uint32_t code_point, std::string_view character) const {
    return code_point < ascii_ids_.size() ? ascii_ids_[code_point] : vocab_.find(character, false).value_or(-1);
  }
  bool append_fallback(std::string_view character, std::vector<Symbol>& symbols) const;

  Vocab vocab_;
  MergeTable merges_;
  // Pairs of code points: the last of a merge's left token and the first of its right one. Between any other two no
  // merge ever happens, so a text is cut there, mostly into words.
  MergeTable joints_;
  Options options_;
  std::array<TokenId, 128> ascii_ids_;  // -1: no token
  std::array<TokenId, 256> byte_ids_;   // of <0x00> to <0xFF>; -1: no token
};

}  // namespace wick::text
