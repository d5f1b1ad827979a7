#include "text/word_piece.h"

#include <algorithm>

namespace wick::text {
namespace {

bool continues_character(char c) { return (static_cast<unsigned char>(c) & 0xC0U) == 0x80U; }

}  // namespace

WordPieceModel::WordPieceModel(Vocab vocab, Options options) : vocab_(std::move(vocab)), options_(std::move(options)) {
  for (std::size_t id = 0; id < vocab_.id_bound(); ++id) {
    const auto token = static_cast<TokenId>(id);
    if (!vocab_.contains(token)) continue;
    longest_ = std::max(longest_, vocab_.text(token).size() + (vocab_.tag(token) ? options_.prefix.size() : 0));
  }
}

bool WordPieceModel::too_long(std::string_view piece) const {
  if (piece.size() <= options_.max_input) return false;
  const auto characters = std::count_if(piece.begin(), piece.end(), [](char c) { return !continues_character(c); });
  return static_cast<std::uint64_t>(characters) > options_.max_input;
}

void WordPieceModel::encode(std::string_view piece, std::vector<ModelToken>& out) const {
  const auto size = static_cast<std::uint32_t>(piece.size());
  const std::size_t before = out.size();
  bool known = !too_long(piece);
  for (std::size_t begin = 0; known && begin < piece.size();) {
    // Longer than the longest token is no token: that bounds the work for each one.
    std::size_t end = std::min(piece.size(), begin + longest_);
    std::optional<TokenId> token;
    for (; end > begin; --end) {
      if (end < piece.size() && continues_character(piece[end])) continue;
      const std::string_view part = piece.substr(begin, end - begin);
      token = begin == 0 ? token_to_id(part) : vocab_.find(part, true);
      if (token) break;
    }
    known = token.has_value();
    if (known) out.push_back({*token, static_cast<std::uint32_t>(begin), static_cast<std::uint32_t>(end)});
    begin = end;
  }
  if (known) return;
  out.resize(before);
  out.push_back({options_.unk_token, 0, size});
}

std::optional<TokenId> WordPieceModel::token_to_id(std::string_view token) const {
  if (token.starts_with(options_.prefix)) return vocab_.find(token.substr(options_.prefix.size()), true);
  return vocab_.find(token, false);
}

std::optional<std::string> WordPieceModel::id_to_token(TokenId id) const {
  if (id < 0 || !vocab_.contains(id)) return std::nullopt;
  std::string token;
  append_bytes(token, id);
  return token;
}

void WordPieceModel::append_bytes(std::string& out, TokenId id) const {
  if (id < 0 || !vocab_.contains(id)) return;
  if (vocab_.tag(id)) out += options_.prefix;
  out += vocab_.text(id);
}

}  // namespace wick::text
