#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "wick/tokenizer.h"

namespace wick::text {

/// No id may be this large: it bounds what a file can make the tables allocate.
inline constexpr std::uint64_t kMaxTokenId = 1ULL << 22;

/// Strings with ids: one arena, one flat hash table. Ids may have holes. An entry has a tag bit, part of its key.
class Vocab {
 public:
  enum class Added { ok, duplicate_text, duplicate_id };

  /// A look-up under way. Tables of this size live in main memory; when many look-ups are known beforehand, letting
  /// each step of one wait behind the same step of others hides most of that.
  struct Probe {
    std::uint64_t hash;
  };

  /// Makes room for `count` entries of `bytes` bytes in all.
  void reserve(std::size_t count, std::size_t bytes);
  /// `id` must be below kMaxTokenId.
  Added add(TokenId id, std::string_view text, bool tag) { return add(probe(text, tag), id, text, tag); }
  Added add(Probe probe, TokenId id, std::string_view text, bool tag);

  std::optional<TokenId> find(std::string_view text, bool tag) const { return find(probe(text, tag), text, tag); }
  std::optional<TokenId> find(Probe probe, std::string_view text, bool tag) const;

  /// The steps of a look-up: hash, then fetch the slot, the entry and the text, then add() or find().
  static Probe probe(std::string_view text, bool tag);
  void fetch_slot(Probe probe) const {
    if (!slots_.empty()) __builtin_prefetch(&slots_[probe.hash & (slots_.size() - 1)]);
  }
  void fetch_entry(Probe probe) const {
    if (const TokenId id = first_candidate(probe); id >= 0) __builtin_prefetch(&entries_[static_cast<std::size_t>(id)]);
  }
  void fetch_text(Probe probe) const {
    if (const TokenId id = first_candidate(probe); id >= 0) __builtin_prefetch(text(id).data());
  }

  bool contains(TokenId id) const {
    return static_cast<std::size_t>(id) < entries_.size() && entries_[static_cast<std::size_t>(id)].used;
  }
  /// Of an id that contains() says is there.
  std::string_view text(TokenId id) const {
    const Entry& entry = entries_[static_cast<std::size_t>(id)];
    return std::string_view(arena_).substr(entry.offset, entry.length);
  }
  bool tag(TokenId id) const { return entries_[static_cast<std::size_t>(id)].tag; }

  std::size_t size() const { return count_; }
  /// One past the largest id.
  std::size_t id_bound() const { return entries_.size(); }

 private:
  struct Entry {
    std::uint64_t offset = 0;
    std::uint32_t length = 0;
    bool used = false;
    bool tag = false;
  };
  struct Slot {
    std::uint32_t hash = 0;
    TokenId id = -1;
  };
  void grow(std::size_t slots);
  TokenId first_candidate(Probe probe) const {
    return slots_.empty() ? -1 : slots_[probe.hash & (slots_.size() - 1)].id;
  }

  std::string arena_;
  std::vector<Entry> entries_;  // by id
  std::vector<Slot> slots_;     // a power of two, at most half full
  std::size_t count_ = 0;
};

}  // namespace wick::text
