#include "text/bpe_merge.h"

#include <algorithm>
#include <array>
#include <bit>
#include <functional>
#include <queue>

namespace wick::text {
namespace {

void merge_few(const MergeTable& merges, std::span<const Symbol> symbols, std::uint32_t at,
               std::vector<ModelToken>& out) {
  struct Part {
    TokenId id;
    std::uint32_t length;
    MergeTable::Merge with_next;
  };
  constexpr MergeTable::Merge kNothing{MergeTable::kNone, -1};
  std::array<Part, kFewSymbols> parts;
  std::size_t count = symbols.size();
  for (std::size_t i = 0; i < count; ++i) {
    parts[i] = {symbols[i].id, symbols[i].length,
                i + 1 < count ? merges.find(symbols[i].id, symbols[i + 1].id) : kNothing};
  }
  while (count > 1) {
    std::size_t best = 0;
    for (std::size_t i = 1; i + 1 < count; ++i) {
      if (parts[i].with_next.rank < parts[best].with_next.rank) best = i;
    }
    if (parts[best].with_next.rank == MergeTable::kNone) break;
    parts[best].id = parts[best].with_next.joined;
    parts[best].length += parts[best + 1].length;
    std::copy(parts.begin() + static_cast<std::ptrdiff_t>(best) + 2, parts.begin() + static_cast<std::ptrdiff_t>(count),
              parts.begin() + static_cast<std::ptrdiff_t>(best) + 1);
    --count;
    parts[best].with_next = best + 1 < count ? merges.find(parts[best].id, parts[best + 1].id) : kNothing;
    if (best > 0) parts[best - 1].with_next = merges.find(parts[best - 1].id, parts[best].id);
  }
  for (std::size_t i = 0; i < count; ++i) {
    out.push_back({parts[i].id, at, at + parts[i].length});
    at += parts[i].length;
  }
}

void merge_many(const MergeTable& merges, std::span<const Symbol> symbols, std::uint32_t at,
                std::vector<ModelToken>& out) {
  constexpr std::uint32_t kEnd = 0xFFFFFFFFU;
  struct Node {
    TokenId id;
    std::uint32_t length;  // 0: merged into the one before it
    std::uint32_t previous;
    std::uint32_t next;
  };
  // Lowest rank first, then leftmost. An entry is stale when its two nodes no longer are the pair it was made for.
  struct Candidate {
    std::uint64_t order;  // rank << 32 | position
    TokenId left;
    TokenId right;
    TokenId joined;
    bool operator>(const Candidate& other) const { return order > other.order; }
  };

  const std::size_t count = symbols.size();
  std::vector<Node> nodes(count);
  for (std::size_t i = 0; i < count; ++i) {
    nodes[i] = {symbols[i].id, symbols[i].length, i == 0 ? kEnd : static_cast<std::uint32_t>(i - 1),
                i + 1 == count ? kEnd : static_cast<std::uint32_t>(i + 1)};
  }
  const auto candidate_at = [&](std::uint32_t position, auto&& use) {
    const Node& left = nodes[position];
    const Node& right = nodes[left.next];
    const MergeTable::Merge merge = merges.find(left.id, right.id);
    if (merge.rank == MergeTable::kNone) return;
    use(Candidate{static_cast<std::uint64_t>(merge.rank) << 32 | position, left.id, right.id, merge.joined});
  };

  std::vector<Candidate> first;
  first.reserve(count);
  for (std::uint32_t i = 0; i + 1 < count; ++i) {
    candidate_at(i, [&](const Candidate& c) { first.push_back(c); });
  }
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue(std::greater<>{}, std::move(first));

  while (!queue.empty()) {
    const Candidate top = queue.top();
    queue.pop();
    const auto position = static_cast<std::uint32_t>(top.order & 0xFFFFFFFFU);
    Node& left = nodes[position];
    if (left.length == 0 || left.id != top.left || left.next == kEnd || nodes[left.next].id != top.right) continue;
    Node& right = nodes[left.next];
    left.id = top.joined;
    left.length += right.length;
    left.next = right.next;
    right.length = 0;
    if (left.next != kEnd) {
      nodes[left.next].previous = position;
      candidate_at(position, [&](const Candidate& c) { queue.push(c); });
    }
    if (left.previous != kEnd) candidate_at(left.previous, [&](const Candidate& c) { queue.push(c); });
  }

  for (std::uint32_t i = 0; i != kEnd && count > 0; i = nodes[i].next) {
    out.push_back({nodes[i].id, at, at + nodes[i].length});
    at += nodes[i].length;
  }
}

}  // namespace

void MergeTable::reserve(std::size_t count) {
  const std::size_t wanted = std::bit_ceil(count * 2 + 2);
  if (wanted <= slots_.size()) return;
  std::vector<Slot> old(wanted);
  old.swap(slots_);
  mask_ = wanted - 1;
  count_ = 0;
  for (const Slot& slot : old) {
    if (slot.key != kEmpty) {
      set(static_cast<TokenId>(slot.key >> 32), static_cast<TokenId>(slot.key & 0xFFFFFFFFU), slot.merge);
    }
  }
}

void MergeTable::set(TokenId left, TokenId right, Merge merge) {
  if ((count_ + 1) * 2 > slots_.size()) reserve((count_ + 1) * 2);
  const std::uint64_t key = key_of(left, right);
  std::size_t at = index_of(key);
  while (slots_[at].key != kEmpty && slots_[at].key != key) at = (at + 1) & mask_;
  if (slots_[at].key == kEmpty) ++count_;
  slots_[at] = {key, merge};
}

void merge_symbols(const MergeTable& merges, std::span<const Symbol> symbols, std::uint32_t begin,
                   std::vector<ModelToken>& out) {
  if (symbols.size() <= kFewSymbols) {
    merge_few(merges, symbols, begin, out);
  } else {
    merge_many(merges, symbols, begin, out);
  }
}

}  // namespace wick::text
