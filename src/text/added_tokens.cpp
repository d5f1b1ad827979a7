#include "text/added_tokens.h"

#include <algorithm>

#include "text/unicode.h"

namespace wick::text {
namespace {

// Where the character that ends at `end` begins.
std::size_t character_before(std::string_view text, std::size_t end) {
  do {
    --end;
  } while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0U) == 0x80U);
  return end;
}

}  // namespace

AddedTokens::AddedTokens(std::vector<AddedToken> tokens, const std::function<std::string(std::string_view)>& normalize)
    : tokens_(std::move(tokens)) {
  for (std::uint32_t i = 0; i < tokens_.size(); ++i) {
    AddedToken& token = tokens_[i];
    token.shown = token.normalized ? normalize(token.content) : token.content;
    by_id_.emplace(token.id, i);
    by_content_.emplace(token.content, i);
    if (token.single_word && !word_) {
      word_.emplace("[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\p{Join_Control}]", Regex::Pcre{}, "added tokens");
    }
  }
  // Of two that normalization makes equal the special one wins, then the first.
  for (const bool special : {true, false}) {
    for (std::uint32_t i = 0; i < tokens_.size(); ++i) {
      const AddedToken& token = tokens_[i];
      if (token.special != special) continue;
      (token.normalized ? normalized_ : plain_).patterns.push_back({token.shown, i});
    }
  }
  plain_.finish();
  normalized_.finish();
}

void AddedTokens::Finder::finish() {
  std::erase_if(patterns, [](const Pattern& p) { return p.text.empty(); });
  std::stable_sort(patterns.begin(), patterns.end(),
                   [](const Pattern& a, const Pattern& b) { return a.text < b.text; });
  for (const Pattern& pattern : patterns) starts[static_cast<unsigned char>(pattern.text[0])] = true;
}

const AddedTokens::Finder::Pattern* AddedTokens::Finder::longest_at(std::string_view text, std::size_t position) const {
  const Pattern* longest = nullptr;
  auto low = patterns.begin();
  auto high = patterns.end();
  for (std::size_t depth = 0; position + depth < text.size(); ++depth) {
    const auto byte = static_cast<unsigned char>(text[position + depth]);
    // All of [low, high) share the first `depth` bytes and have more.
    const auto at_depth = [depth](const Pattern& p) { return static_cast<unsigned char>(p.text[depth]); };
    low = std::partition_point(low, high, [&](const Pattern& p) { return at_depth(p) < byte; });
    high = std::partition_point(low, high, [&](const Pattern& p) { return at_depth(p) == byte; });
    if (low == high) break;
    if (low->text.size() == depth + 1) {
      longest = &*low;
      low = std::partition_point(low, high, [&](const Pattern& p) { return p.text.size() == depth + 1; });
    }
  }
  return longest;
}

bool AddedTokens::stands_alone(std::string_view text, std::size_t begin, std::size_t end) const {
  if (begin > 0) {
    const std::size_t before = character_before(text, begin);
    if (word_->matches(text.substr(before, begin - before))) return false;
  }
  if (end < text.size()) {
    std::size_t after = end;
    next_code_point(text, after);
    if (word_->matches(text.substr(end, after - end))) return false;
  }
  return true;
}

void AddedTokens::split(std::string_view text, bool in_normalized, std::vector<Part>& out) const {
  const Finder& finder = in_normalized ? normalized_ : plain_;
  std::size_t done = 0;
  if (!finder.patterns.empty()) {
    for (std::size_t at = 0; at < text.size();) {
      if (!finder.starts[static_cast<unsigned char>(text[at])]) {
        ++at;
        continue;
      }
      const Finder::Pattern* found = finder.longest_at(text, at);
      if (found == nullptr) {
        ++at;
        continue;
      }
      const AddedToken& token = tokens_[found->token];
      std::size_t begin = at;
      std::size_t end = at + found->text.size();
      at = end;
      if (token.single_word && !stands_alone(text, begin, end)) continue;
      if (token.lstrip) {
        // White space that the token before has taken stays with that one.
        while (begin > done) {
          std::size_t before = character_before(text, begin);
          std::size_t after = before;
          if (!is_white_space(next_code_point(text, after))) break;
          begin = before;
        }
        begin = std::max(begin, done);
        end = std::max(end, begin);
      }
      if (token.rstrip) {
        while (end < text.size()) {
          std::size_t after = end;
          if (!is_white_space(next_code_point(text, after))) break;
          end = after;
        }
      }
      if (done < begin) out.push_back({done, begin, nullptr});
      // One whose white space the token before has taken is gone.
      if (begin < end) out.push_back({begin, end, &token});
      done = end;
    }
  }
  if (done < text.size()) out.push_back({done, text.size(), nullptr});
}

const AddedToken* AddedTokens::find(TokenId id) const {
  const auto found = by_id_.find(id);
  return found == by_id_.end() ? nullptr : &tokens_[found->second];
}

const AddedToken* AddedTokens::find(std::string_view content) const {
  const auto found = by_content_.find(std::string(content));
  return found == by_content_.end() ? nullptr : &tokens_[found->second];
}

}  // namespace wick::text
