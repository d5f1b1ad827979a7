#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "text/model.h"

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

  /// Calls use(left, right) with each pair, in no order.
  template <class Use>
  void for_each(Use&& use) const {
    for (const Slot& slot : slots_) {
      if (slot.key != kEmpty) use(static_cast<TokenId>(slot.key >> 32), static_cast<TokenId>(slot.key & 0xFFFFFFFFU));
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

/// What byte pair encoding begins with: a token, and how many bytes of the piece it covers.
struct Symbol {
  TokenId id;
  std::uint32_t length;
};

/// Up to this many symbols a scan for the best pair beats a heap.
inline constexpr std::size_t kFewSymbols = 48;

/// Joins neighbours, the pair of the lowest rank first, of equal ones the leftmost, until none is in the table, and
/// appends the tokens that are left; the first begins at byte `begin` of the piece. O(n log n) for n symbols.
void merge_symbols(const MergeTable& merges, std::span<const Symbol> symbols, std::uint32_t begin,
                   std::vector<ModelToken>& out);

}  // namespace wick::text
