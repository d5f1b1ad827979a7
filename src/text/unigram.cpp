#include "text/unigram.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "text/vocab.h"

namespace wick::text {
namespace {

constexpr std::uint32_t kNowhere = std::numeric_limits<std::uint32_t>::max();
constexpr double kUnknownPenalty = 10;

// The bytes of the character that begins with this byte of valid UTF-8.
std::size_t character_size(char first) {
  const auto byte = static_cast<unsigned char>(first);
  return byte < 0x80 ? 1 : byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : 4;
}

}  // namespace

UnigramModel::UnigramModel(const std::vector<Entry>& entries, TokenId unk_id, bool byte_fallback)
    : unk_id_(unk_id), byte_fallback_(byte_fallback) {
  double lowest = std::numeric_limits<double>::infinity();
  std::vector<std::string_view> tokens;
  tokens.reserve(entries.size());
  scores_.reserve(entries.size());
  ends_.reserve(entries.size() + 1);
  for (const Entry& entry : entries) {
    tokens.push_back(entry.token);
    arena_ += entry.token;
    ends_.push_back(arena_.size());
    scores_.push_back(entry.score);
    lowest = std::min(lowest, entry.score);
  }
  unk_score_ = lowest - kUnknownPenalty;
  trie_ = TokenTrie(tokens);
  for (unsigned byte = 0; byte < 256; ++byte) byte_ids_[byte] = trie_.find(fmt::format("<0x{:02X}>", byte));
}

void UnigramModel::search(std::string_view piece, Best* best) const {
  best[0] = {0, 0, -1};
  for (std::size_t i = 1; i <= piece.size(); ++i) best[i] = {0, kNowhere, -1};
  // Every boundary of characters is reached: by a token of one character, or by an unknown one.
  for (std::size_t begin = 0; begin < piece.size();) {
    const double so_far = best[begin].score;
    const std::size_t one = character_size(piece[begin]);
    bool known = false;
    const auto offer = [&](std::size_t length, double score, TokenId id) {
      Best& there = best[begin + length];
      const double sum = score + so_far;
      if (there.begin == kNowhere || sum > there.score) there = {sum, static_cast<std::uint32_t>(begin), id};
    };
    trie_.for_each_prefix(piece.substr(begin), [&](std::size_t length, TokenId id) {
      offer(length, scores_[static_cast<std::size_t>(id)], id);
      known = known || length == one;
    });
    if (!known) offer(one, unk_score_, unk_id_);
    begin += one;
  }
}

// Appends backwards, as encode() needs it.
void UnigramModel::append_unknown(std::string_view piece, std::uint32_t begin, std::uint32_t end,
                                  std::vector<ModelToken>& out) const {
  const std::string_view run = piece.substr(begin, end - begin);
  // A run may spell a token that was not worth it on its own.
  if (const TokenId id = trie_.find(run); id >= 0) return out.push_back({id, begin, end});
  const auto id_of = [&](char c) { return byte_ids_[static_cast<unsigned char>(c)]; };
  if (byte_fallback_ && std::all_of(run.begin(), run.end(), [&](char c) { return id_of(c) >= 0; })) {
    std::for_each(run.rbegin(), run.rend(), [&](char c) { out.push_back({id_of(c), begin, end}); });
    return;
  }
  out.push_back({unk_id_, begin, end});
}

void UnigramModel::encode(std::string_view piece, std::vector<ModelToken>& out) const {
  constexpr std::size_t kShort = 255;  // as most words are
  std::array<Best, kShort + 1> few;    // NOLINT: filled by search()
  std::vector<Best> many;
  Best* best = few.data();
  if (piece.size() > kShort) {
    many.resize(piece.size() + 1);
    best = many.data();
  }
  search(piece, best);

  const std::size_t first = out.size();
  std::uint32_t unknown_end = 0;  // of the run of unknown characters that the walk back is in; 0: in none
  auto end = static_cast<std::uint32_t>(piece.size());
  while (end > 0) {
    const Best& last = best[end];
    if (last.id == unk_id_) {
      if (unknown_end == 0) unknown_end = end;
    } else {
      if (unknown_end != 0) append_unknown(piece, end, unknown_end, out);
      unknown_end = 0;
      out.push_back({last.id, last.begin, end});
    }
    end = last.begin;
  }
  if (unknown_end != 0) append_unknown(piece, 0, unknown_end, out);
  std::reverse(out.begin() + static_cast<std::ptrdiff_t>(first), out.end());
}

std::optional<TokenId> UnigramModel::token_to_id(std::string_view token) const {
  const TokenId id = trie_.find(token);
  return id < 0 ? std::nullopt : std::optional(id);
}

std::optional<std::string> UnigramModel::id_to_token(TokenId id) const {
  if (id < 0 || static_cast<std::size_t>(id) >= scores_.size()) return std::nullopt;
  return std::string(text(id));
}

void UnigramModel::append_bytes(std::string& out, TokenId id) const {
  if (id >= 0 && static_cast<std::size_t>(id) < scores_.size()) out += text(id);
}

std::unique_ptr<const Model> read_unigram(const JsonValue& model) {
  model.only({"type", "unk_id", "vocab", "byte_fallback"});
  const JsonValue vocab = model.at("vocab");
  const simdjson::dom::array list = vocab.array();
  std::vector<UnigramModel::Entry> entries;
  for (const simdjson::dom::element item : list) {
    UnigramModel::Entry entry{};
    simdjson::dom::array pair;
    if (item.get(pair) != simdjson::SUCCESS || pair.size() != 2 || pair.at(0).get(entry.token) != simdjson::SUCCESS ||
        pair.at(1).get(entry.score) != simdjson::SUCCESS || !std::isfinite(entry.score)) {
      vocab.child(item, fmt::format("[{}]", entries.size())).format("is not a token and its score");
    }
    entries.push_back(entry);
  }
  if (entries.empty()) vocab.format("is empty");
  if (entries.size() > kMaxTokenId) vocab.format("has {} tokens, more than {}", entries.size(), kMaxTokenId);
  const auto unk = model.find("unk_id");
  if (!unk) model.unsupported("has no \"unk_id\", and a text with a character that no token has cannot do without");
  const auto unk_id = static_cast<TokenId>(unk->integer_below(entries.size()));
  return std::make_unique<const UnigramModel>(entries, unk_id, model.boolean_or("byte_fallback", false));
}

}  // namespace wick::text
