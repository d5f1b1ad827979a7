#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "text/model.h"
#include "text/vocab.h"

namespace wick::text {

/// (left token, right token) -> (rank, joined token): a flat hash table.
class MergeTable {
 public:
  struct Merge {
    std::uint32_t rank;  // kNone: these two do not merge
    TokenId joined;
  };
  static constexpr std::uint32_t kNone = 0xFFFFFFFFU;

  void reserve(std::size_t count);
  /// A pair that is there already gets the new rank.
  void set(TokenId left, TokenId right, Merge merge);
  /// Announces a set() or find() soon.
  void fetch(TokenId left, TokenId right) const { __builtin_prefetch(&slots_[index_of(key_of(left, right))]); }

  Merge find(TokenId left, TokenId right) const {
    const std::uint64_t key = key_of(left, right);
    for (std::size_t at = index_of(key);; at = (at + 1) & mask_) {
      if (slots_[at].key == key) return slots_[at].merge;
      if (slots_[at].key == kEmpty) return {kNone, -1};
    }
  }

 private:
  static constexpr std::uint64_t kEmpty = ~0ULL;  // never a key: ids are not negative
  struct Slot {
    std::uint64_t key = kEmpty;
    Merge merge{kNone, -1};
  };
  static std::uint64_t key_of(TokenId left, TokenId right) {
    return static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32 | static_cast<std::uint32_t>(right);
  }
  std::size_t index_of(std::uint64_t key) const {
    const std::uint64_t mixed = (key ^ key >> 29) * 0xBF58476D1CE4E5B9ULL;
    return static_cast<std::size_t>(mixed ^ mixed >> 31) & mask_;
  }

  std::vector<Slot> slots_ = std::vector<Slot>(2);
  std::size_t mask_ = 1;
  std::size_t count_ = 0;
};

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
  struct Symbol {
    TokenId id;
    std::uint32_t length;
  };

  void merge(std::string_view piece, std::vector<ModelToken>& out) const;
  void merge_with_gaps(std::string_view piece, std::vector<ModelToken>& out) const;
  void merge_short(const Symbol* symbols, std::size_t count, std::vector<ModelToken>& out) const;
  void merge_long(const std::vector<Symbol>& symbols, std::vector<ModelToken>& out) const;

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
