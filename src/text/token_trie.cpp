#include "text/token_trie.h"

#include <algorithm>
#include <numeric>

namespace wick::text {

class TokenTrie::Builder {
 public:
  Builder(std::span<const std::string_view> tokens, std::vector<Unit>& units) : tokens_(tokens), units_(units) {}

  void build() {
    std::vector<std::uint32_t> order(tokens_.size());
    std::iota(order.begin(), order.end(), 0U);
    std::sort(order.begin(), order.end(), [&](std::uint32_t a, std::uint32_t b) {
      const int compared = tokens_[a].compare(tokens_[b]);
      return compared != 0 ? compared < 0 : a < b;
    });
    add_block();
    take(0, kRoot);
    // A node with the range of sorted strings that share the bytes up to it.
    struct Pending {
      std::uint32_t node;
      std::uint32_t begin;
      std::uint32_t end;
      std::uint32_t depth;
    };
    std::vector<Pending> stack{{0, 0, static_cast<std::uint32_t>(order.size()), 0}};
    std::vector<unsigned char> bytes;
    std::vector<std::uint32_t> starts;
    while (!stack.empty()) {
      Pending at = stack.back();
      stack.pop_back();
      for (; at.begin < at.end && tokens_[order[at.begin]].size() == at.depth; ++at.begin) {
        if (at.depth > 0) units_[at.node].id = static_cast<TokenId>(order[at.begin]);
      }
      bytes.clear();
      starts.clear();
      for (std::uint32_t i = at.begin; i < at.end; ++i) {
        const auto byte = static_cast<unsigned char>(tokens_[order[i]][at.depth]);
        if (!bytes.empty() && bytes.back() == byte) continue;
        bytes.push_back(byte);
        starts.push_back(i);
      }
      if (bytes.empty()) continue;
      starts.push_back(at.end);
      const std::uint32_t base = base_for(bytes);
      units_[at.node].base = base;
      for (const unsigned char byte : bytes) take(base ^ byte, at.node);
      for (std::size_t i = bytes.size(); i-- > 0;) {
        stack.push_back({base ^ bytes[i], starts[i], starts[i + 1], at.depth + 1});
      }
    }
  }

 private:
  // Free units are a list, from the oldest to the newest.
  struct Link {
    std::uint32_t before;
    std::uint32_t after;
  };

  void add_block() {
    const auto first = static_cast<std::uint32_t>(units_.size());
    units_.resize(units_.size() + 256);
    links_.resize(units_.size());
    for (std::uint32_t i = first; i < first + 256; ++i) {
      links_[i] = {last_, kFree};
      (last_ == kFree ? first_ : links_[last_].after) = i;
      last_ = i;
    }
  }

  void take(std::uint32_t unit, std::uint32_t parent) {
    units_[unit].parent = parent;
    const auto [before, after] = links_[unit];
    (before == kFree ? first_ : links_[before].after) = after;
    (after == kFree ? last_ : links_[after].before) = before;
  }

  std::uint32_t base_for(const std::vector<unsigned char>& bytes) {
    // Few tries: what does not fit soon gets a block of its own, whose gaps the nodes with one child fill.
    constexpr int kTries = 64;
    std::uint32_t unit = first_;
    for (int i = 0; i < kTries && unit != kFree; ++i, unit = links_[unit].after) {
      const std::uint32_t base = unit ^ bytes.front();
      if (std::all_of(bytes.begin(), bytes.end(), [&](unsigned char b) { return units_[base ^ b].parent == kFree; })) {
        return base;
      }
    }
    const auto base = static_cast<std::uint32_t>(units_.size());
    add_block();
    return base;
  }

  std::span<const std::string_view> tokens_;
  std::vector<Unit>& units_;
  std::vector<Link> links_;
  std::uint32_t first_ = kFree;
  std::uint32_t last_ = kFree;
};

TokenTrie::TokenTrie(std::span<const std::string_view> tokens) { Builder(tokens, units_).build(); }

TokenId TokenTrie::find(std::string_view text) const {
  TokenId found = -1;
  for_each_prefix(text, [&](std::size_t length, TokenId id) {
    if (length == text.size()) found = id;
  });
  return found;
}

}  // namespace wick::text
