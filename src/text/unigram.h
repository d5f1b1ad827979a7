#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "text/json_value.h"
#include "text/model.h"
#include "text/token_trie.h"

namespace wick::text {

/// The unigram language model (Kudo 2018): of all the ways to cut a piece into tokens, the one whose scores have the
/// largest sum. A character that is not a token counts as unknown, with the lowest score less 10; unknown characters in
/// a row become one token. Of two ways with equal sums, the one whose last token is longer wins.
class UnigramModel final : public Model {
 public:
  struct Entry {
    std::string_view token;
    double score;
  };

  /// The id of a token is its index. `unk_id` must be one of them. `byte_fallback`: what is unknown is spelled with the
  /// tokens <0x00> to <0xFF> where the vocabulary has all that this takes.
  UnigramModel(const std::vector<Entry>& entries, TokenId unk_id, bool byte_fallback);

  void encode(std::string_view piece, std::vector<ModelToken>& out) const override;
  std::optional<TokenId> token_to_id(std::string_view token) const override;
  std::optional<std::string> id_to_token(TokenId id) const override;
  std::size_t vocab_size() const override { return scores_.size(); }
  void append_bytes(std::string& out, TokenId id) const override;

 private:
  // The best way to the end of a token: that token, and where it begins.
  struct Best {
    double score;
    std::uint32_t begin;
    TokenId id;
  };

  void search(std::string_view piece, Best* best) const;
  void append_unknown(std::string_view piece, std::uint32_t begin, std::uint32_t end,
                      std::vector<ModelToken>& out) const;
  std::string_view text(TokenId id) const {
    const auto index = static_cast<std::size_t>(id);
    return std::string_view(arena_).substr(ends_[index], ends_[index + 1] - ends_[index]);
  }

  std::string arena_;
  std::vector<std::size_t> ends_{0};  // token i is [ends_[i], ends_[i + 1]) of the arena
  std::vector<double> scores_;
  TokenTrie trie_;
  TokenId unk_id_;
  double unk_score_;
  bool byte_fallback_;
  std::array<TokenId, 256> byte_ids_;  // -1: no token
};

/// Reads the model section of a tokenizer.json whose type is Unigram.
std::unique_ptr<const Model> read_unigram(const JsonValue& model);

}  // namespace wick::text
