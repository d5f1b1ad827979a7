#include "text/character_bpe.h"

#include <fmt/format.h>

#include <algorithm>

#include "text/unicode.h"

namespace wick::text {
namespace {

constexpr std::uint32_t kNoCharacter = 0xFFFFFFFFU;

std::uint32_t first_character(std::string_view text) {
  std::size_t at = 0;
  return next_code_point(text, at);
}

std::uint32_t last_character(std::string_view text) {
  std::size_t at = text.size() - 1;
  while ((static_cast<unsigned char>(text[at]) & 0xC0U) == 0x80U) --at;
  return next_code_point(text, at);
}

// Code points are keys of a table of pairs of ids.
TokenId key(std::uint32_t code_point) { return static_cast<TokenId>(code_point); }

}  // namespace

CharacterBpeModel::CharacterBpeModel(Vocab vocab, MergeTable merges, const Options& options)
    : vocab_(std::move(vocab)), merges_(std::move(merges)), options_(options) {
  for (unsigned i = 0; i < ascii_ids_.size(); ++i) {
    const char c = static_cast<char>(i);
    ascii_ids_[i] = vocab_.find({&c, 1}, false).value_or(-1);
  }
  for (unsigned i = 0; i < byte_ids_.size(); ++i) {
    byte_ids_[i] = vocab_.find(fmt::format("<0x{:02X}>", i), false).value_or(-1);
  }
  merges_.for_each([&](TokenId left, TokenId right) {
    joints_.set(key(last_character(vocab_.text(left))), key(first_character(vocab_.text(right))), {0, 0});
  });
}

bool CharacterBpeModel::append_fallback(std::string_view character, std::vector<Symbol>& symbols) const {
  const auto id_of_byte = [&](char c) { return byte_ids_[static_cast<unsigned char>(c)]; };
  if (!options_.byte_fallback ||
      !std::all_of(character.begin(), character.end(), [&](char c) { return id_of_byte(c) >= 0; })) {
    return false;
  }
  for (const char c : character) symbols.push_back({id_of_byte(c), 1});
  return true;
}

void CharacterBpeModel::encode(std::string_view piece, std::vector<ModelToken>& out) const {
  if (options_.ignore_merges) {
    if (const auto whole = vocab_.find(piece, false)) {
      return out.push_back({*whole, 0, static_cast<std::uint32_t>(piece.size())});
    }
  }
  std::vector<Symbol> symbols;  // since the last cut
  symbols.reserve(std::min(piece.size(), kFewSymbols));
  std::uint32_t done = 0;               // bytes before the last cut
  std::uint32_t before = kNoCharacter;  // the character before this one, if it has a token
  std::uint32_t unknown = 0;            // bytes of an unknown token that is yet to come
  const auto merge = [&] {
    merge_symbols(merges_, symbols, done, out);
    for (const Symbol& symbol : symbols) done += symbol.length;
    symbols.clear();
  };
  for (std::size_t at = 0; at < piece.size();) {
    const std::size_t begin = at;
    const std::uint32_t code_point = next_code_point(piece, at);
    const std::string_view character = piece.substr(begin, at - begin);
    const auto length = static_cast<std::uint32_t>(character.size());
    const TokenId id = id_of(code_point, character);
    if (id >= 0) {
      if (unknown > 0) symbols.push_back({*options_.unk_token, unknown});
      unknown = 0;
      if (before != kNoCharacter && joints_.find(key(before), key(code_point)).rank == MergeTable::kNone) merge();
      symbols.push_back({id, length});
      before = code_point;
      continue;
    }
    before = kNoCharacter;
    // The reference puts an unknown token behind the bytes of the characters that follow it.
    if (append_fallback(character, symbols) || !options_.unk_token) continue;
    if (unknown > 0 && !options_.fuse_unk) {
      symbols.push_back({*options_.unk_token, unknown});
      unknown = 0;
    }
    unknown += length;
  }
  if (unknown > 0) symbols.push_back({*options_.unk_token, unknown});
  merge();
}

std::optional<std::string> CharacterBpeModel::id_to_token(TokenId id) const {
  if (id < 0 || !vocab_.contains(id)) return std::nullopt;
  return std::string(vocab_.text(id));
}

void CharacterBpeModel::append_bytes(std::string& out, TokenId id) const {
  if (id >= 0 && vocab_.contains(id)) out += vocab_.text(id);
}

}  // namespace wick::text
