#include "text/bpe.h"

#include <algorithm>

#include "text/byte_level.h"

namespace wick::text {

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
  if (piece.size() <= kFewSymbols) {
    std::array<Symbol, kFewSymbols> symbols;
    std::transform(piece.begin(), piece.end(), symbols.begin(), symbol);
    return merge_symbols(merges_, {symbols.data(), piece.size()}, 0, out);
  }
  std::vector<Symbol> symbols(piece.size());
  std::transform(piece.begin(), piece.end(), symbols.begin(), symbol);
  merge_symbols(merges_, symbols, 0, out);
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
  merge_symbols(merges_, symbols, 0, out);
  for (std::size_t i = before; i < out.size(); ++i) {
    out[i].begin = byte_at[out[i].begin];
    out[i].end = byte_at[out[i].end - 1] + 1;
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
