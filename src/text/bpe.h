#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "text/bpe_merge.h"
#include "text/model.h"
#include "text/vocab.h"

namespace wick::text {

/// Byte-level byte pair encoding (Sennrich et al. 2016; Radford et al. 2019). Pieces are bytes; the file's spelling of
/// a token (see byte_level.h) exists only at the border.
class BpeModel final : public Model {
 public:
  struct Options {
    bool ignore_merges = false;        // a piece that is a token is that token, whatever the merges say
    bool fuse_unk = false;             // a run of bytes without a token is one unknown token
    std::optional<TokenId> unk_token;  // for bytes without a token; without it they vanish
  };

  /// `vocab` holds bytes with tag false, and tokens that are not written in the byte-level alphabet, as they are, with
  /// tag true: no text becomes one of those.
  BpeModel(Vocab vocab, MergeTable merges, const Options& options);

  void encode(std::string_view piece, std::vector<ModelToken>& out) const override;
  std::optional<TokenId> token_to_id(std::string_view token) const override;
  std::optional<std::string> id_to_token(TokenId id) const override;
  std::size_t vocab_size() const override { return vocab_.size(); }
  void append_bytes(std::string& out, TokenId id) const override;

 private:
  void merge(std::string_view piece, std::vector<ModelToken>& out) const;
  void merge_with_gaps(std::string_view piece, std::vector<ModelToken>& out) const;

  // Whether the merges turn the bytes of a token into that token: found out when first asked, so that most words of a
  // text are one look-up.
  enum class Whole : std::uint8_t { unknown, yes, no };

  Vocab vocab_;
  MergeTable merges_;
  Options options_;
  std::array<TokenId, 256> byte_ids_;  // -1: no token
  bool every_byte_ = true;
  std::unique_ptr<std::atomic<Whole>[]> whole_;
};

}  // namespace wick::text
