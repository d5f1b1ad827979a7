#include "text/bpe.h"

#include <algorithm>
#include <bit>
#include <queue>

#include "text/byte_level.h"

namespace wick::text {
namespace {

// Up to this many symbols a scan for the best pair beats a heap.
constexpr std::size_t kShort = 48;

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

BpeModel::BpeModel(Vocab vocab, MergeTable merges, const Options& options)
    : vocab_(std::move(vocab)),
      merges_(std::move(merges)),
      options_(options),
      whole_(std::make_unique<std::atomic<Whole>[]>(vocab_.id_bound())) {
  for (unsigned byte = 0; byte < 256; ++byte) {
    const char c = static_cast<char>(static_cast<unsigned char>(byte));
    byte_ids_[byte] = vocab_.find({&c, 1}, false).value_or(-1);
    if (byte_ids_[byte] < 0) every_byte_ = false;
  }
}

void BpeModel::encode(std::string_view piece, std::vector<ModelToken>& out) const {
  const std::optional<TokenId> token = vocab_.find(piece, false);
  if (!token) return merge(piece, out);
  const ModelToken whole{*token, 0, static_cast<std::uint32_t>(piece.size())};
  if (options_.ignore_merges) return out.push_back(whole);
  // Threads that race here find the same answer.
  std::atomic<Whole>& known = whole_[static_cast<std::size_t>(*token)];
  const Whole state = known.load(std::memory_order_relaxed);
  if (state == Whole::yes) return out.push_back(whole);
  const std::size_t before = out.size();
  merge(piece, out);
  if (state == Whole::unknown) {
    const bool same = out.size() == before + 1 && out.back().id == *token;
    known.store(same ? Whole::yes : Whole::no, std::memory_order_relaxed);
  }
}

void BpeModel::merge(std::string_view piece, std::vector<ModelToken>& out) const {
  if (!every_byte_) return merge_with_gaps(piece, out);
  const auto symbol = [&](char c) { return Symbol{byte_ids_[static_cast<unsigned char>(c)], 1}; };
  if (piece.size() <= kShort) {
    std::array<Symbol, kShort> symbols;
    std::transform(piece.begin(), piece.end(), symbols.begin(), symbol);
    return merge_short(symbols.data(), piece.size(), out);
  }
  std::vector<Symbol> symbols(piece.size());
  std::transform(piece.begin(), piece.end(), symbols.begin(), symbol);
  merge_long(symbols, out);
}

// A byte that vanishes leaves no gap: what follows it moves forward. The reference counts in bytes of the byte-level
// spelling, where a byte has one or two, so lengths here do too, and are taken back to bytes of the piece at the end.
void BpeModel::merge_with_gaps(std::string_view piece, std::vector<ModelToken>& out) const {
  std::vector<Symbol> symbols;
  std::vector<std::uint32_t> byte_at;  // the byte of the piece at each byte of its spelling
  bool after_unknown = false;
  for (std::size_t i = 0; i < piece.size(); ++i) {
    const auto byte = static_cast<unsigned char>(piece[i]);
    const std::uint32_t width = byte_level_alphabet()[byte] < 0x80 ? 1 : 2;
    byte_at.insert(byte_at.end(), width, static_cast<std::uint32_t>(i));
    if (byte_ids_[byte] >= 0) {
      symbols.push_back({byte_ids_[byte], width});
      after_unknown = false;
    } else if (options_.unk_token) {
      if (after_unknown && options_.fuse_unk) {
        symbols.back().length += width;
      } else {
        symbols.push_back({*options_.unk_token, width});
      }
      after_unknown = true;
    }
  }
  const std::size_t before = out.size();
  if (symbols.size() <= kShort) {
    merge_short(symbols.data(), symbols.size(), out);
  } else {
    merge_long(symbols, out);
  }
  for (std::size_t i = before; i < out.size(); ++i) {
    out[i].begin = byte_at[out[i].begin];
    out[i].end = byte_at[out[i].end - 1] + 1;
  }
}

void BpeModel::merge_short(const Symbol* symbols, std::size_t count, std::vector<ModelToken>& out) const {
  struct Part {
    TokenId id;
    std::uint32_t length;
    MergeTable::Merge with_next;
  };
  constexpr MergeTable::Merge kNothing{MergeTable::kNone, -1};
  std::array<Part, kShort> parts;
  for (std::size_t i = 0; i < count; ++i) {
    parts[i] = {symbols[i].id, symbols[i].length,
                i + 1 < count ? merges_.find(symbols[i].id, symbols[i + 1].id) : kNothing};
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
    parts[best].with_next = best + 1 < count ? merges_.find(parts[best].id, parts[best + 1].id) : kNothing;
    if (best > 0) parts[best - 1].with_next = merges_.find(parts[best - 1].id, parts[best].id);
  }
  std::uint32_t at = 0;
  for (std::size_t i = 0; i < count; ++i) {
    out.push_back({parts[i].id, at, at + parts[i].length});
    at += parts[i].length;
  }
}

void BpeModel::merge_long(const std::vector<Symbol>& symbols, std::vector<ModelToken>& out) const {
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
    const MergeTable::Merge merge = merges_.find(left.id, right.id);
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

  std::uint32_t at = 0;
  for (std::uint32_t i = 0; i != kEnd && count > 0; i = nodes[i].next) {
    out.push_back({nodes[i].id, at, at + nodes[i].length});
    at += nodes[i].length;
  }
}

std::optional<TokenId> BpeModel::token_to_id(std::string_view token) const {
  if (const auto bytes = from_byte_level(token)) return vocab_.find(*bytes, false);
  return vocab_.find(token, true);
}

std::optional<std::string> BpeModel::id_to_token(TokenId id) const {
  if (id < 0 || !vocab_.contains(id)) return std::nullopt;
  return vocab_.tag(id) ? std::string(vocab_.text(id)) : to_byte_level(vocab_.text(id));
}

void BpeModel::append_bytes(std::string& out, TokenId id) const {
  if (id >= 0 && vocab_.contains(id)) out += vocab_.text(id);
}

}  // namespace wick::text
