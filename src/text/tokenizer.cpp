#include "wick/tokenizer.h"

#include <algorithm>
#include <fstream>

#include "core/fail.h"
#include "text/byte_level.h"
#include "text/rewriter.h"
#include "text/tokenizer_parts.h"
#include "text/unicode.h"

namespace wick {
namespace {

using text::Draft;
using text::Margins;
using text::ModelToken;
using text::Normalized;
using text::Stretch;

// Positions are 32 bits wide, also after a normalizer has made the text up to eleven times longer.
constexpr std::size_t kMaxText = std::size_t{256} << 20;

// From a byte of the text as given to the character it belongs to.
class CharacterIndex {
 public:
  explicit CharacterIndex(std::string_view text) {
    if (std::none_of(text.begin(), text.end(), [](char c) { return static_cast<signed char>(c) < 0; })) return;
    index_.reserve(text.size());
    std::uint32_t count = 0;
    for (const char c : text) {
      if ((static_cast<unsigned char>(c) & 0xC0U) != 0x80U) ++count;
      index_.push_back(count - 1);
    }
  }
  std::size_t begin(std::size_t byte, std::size_t size) const {
    if (byte == size) return size == 0 ? 0 : end(byte);
    return index_.empty() ? byte : index_[byte];
  }
  std::size_t end(std::size_t byte) const {
    if (byte == 0) return 0;
    return index_.empty() ? byte : index_[byte - 1] + std::size_t{1};
  }

 private:
  std::vector<std::uint32_t> index_;  // empty: every character is one byte
};

Margins margins_of_bytes(std::string_view bytes) {
  const std::size_t first = bytes.find_first_not_of(' ');
  if (first == std::string_view::npos) {
    return {static_cast<std::uint32_t>(bytes.size()), static_cast<std::uint32_t>(bytes.size())};
  }
  return {static_cast<std::uint32_t>(first),
          static_cast<std::uint32_t>(bytes.size() - 1 - bytes.find_last_not_of(' '))};
}

// An added token, and one of WordPiece, is still text: its margins are any white space, and the character that stands
// for a space.
Margins margins_of_text(std::string_view text) {
  Margins margins{0, 0};
  bool inside = false;
  for (std::size_t i = 0; i < text.size();) {
    const std::uint32_t c = text::next_code_point(text, i);
    if (c == text::byte_level_alphabet()[' '] || text::is_white_space(c)) {
      if (!inside) ++margins.leading;
      ++margins.trailing;
    } else {
      inside = true;
      margins.trailing = 0;
    }
  }
  return margins;
}

class Encoder {
 public:
  Encoder(const text::TokenizerParts& parts, std::string_view text, bool with_offsets, bool continues);
  Draft run();

 private:
  void normalized_part(const Stretch& stretch);
  void pieces_of(const Stretch& stretch);
  void added(const text::AddedToken& token, const Stretch& stretch);
  Margins margins_of(const ModelToken& token, std::string_view bytes) const;
  void offset_of(const Stretch& stretch, std::size_t begin, std::size_t end);

  const text::TokenizerParts& parts_;
  std::string_view text_;
  bool with_offsets_;
  bool with_margins_;
  bool continues_;
  bool with_origins_;
  CharacterIndex characters_;
  std::vector<ModelToken> tokens_;
  Draft draft_;
};

Encoder::Encoder(const text::TokenizerParts& parts, std::string_view text, bool with_offsets, bool continues)
    : parts_(parts),
      text_(text),
      with_offsets_(with_offsets),
      with_margins_(with_offsets && parts.post_processor.trims()),
      continues_(continues),
      with_origins_(with_offsets || continues || parts.pre_tokenizer.needs_origins()),
      characters_(with_offsets ? text : std::string_view{}) {}

Draft Encoder::run() {
  std::vector<text::AddedTokens::Part> found;
  parts_.added.split(text_, false, found);
  const Stretch all{text_};
  for (const auto& part : found) {
    const Stretch stretch = all.part(part.begin, part.end);
    if (part.token != nullptr) {
      added(*part.token, stretch);
    } else {
      normalized_part(stretch);
    }
  }
  return std::move(draft_);
}

void Encoder::normalized_part(const Stretch& stretch) {
  Normalized changed;
  Stretch current = stretch;
  if (parts_.normalize(stretch.text, with_origins_, continues_ && stretch.base == 0, changed)) {
    current = {changed.text, with_origins_ ? changed.origins.data() : nullptr, stretch.base};
  }
  std::vector<text::AddedTokens::Part> found;
  parts_.added.split(current.text, true, found);
  for (const auto& part : found) {
    const Stretch inner = current.part(part.begin, part.end);
    if (part.token != nullptr) {
      added(*part.token, inner);
    } else {
      pieces_of(inner);
    }
  }
}

void Encoder::pieces_of(const Stretch& stretch) {
  parts_.pre_tokenizer.run(stretch, {with_origins_, continues_}, [&](const Stretch& piece) {
    tokens_.clear();
    parts_.model->encode(piece.text, tokens_);
    for (const ModelToken& token : tokens_) {
      draft_.ids.push_back(token.id);
      if (with_offsets_) offset_of(piece, token.begin, token.end);
      if (with_margins_) {
        draft_.margins.push_back(margins_of(token, piece.text.substr(token.begin, token.end - token.begin)));
      }
    }
  });
}

Margins Encoder::margins_of(const ModelToken& token, std::string_view bytes) const {
  if (parts_.margins_of == text::MarginsOf::bytes) return margins_of_bytes(bytes);
  const std::optional<std::string> spelled = parts_.model->id_to_token(token.id);
  if (parts_.margins_of == text::MarginsOf::spelling) return margins_of_text(spelled.value_or(""));
  // A byte that an unknown character fell back to is spelled out, whatever the character is.
  if (spelled && spelled->size() == 6 && spelled->starts_with("<0x")) return {0, 0};
  return margins_of_text(bytes);
}

void Encoder::added(const text::AddedToken& token, const Stretch& stretch) {
  draft_.ids.push_back(token.id);
  if (with_offsets_) offset_of(stretch, 0, stretch.text.size());
  if (with_margins_) draft_.margins.push_back(margins_of_text(stretch.text));
}

void Encoder::offset_of(const Stretch& stretch, std::size_t begin, std::size_t end) {
  std::size_t first = stretch.base + begin;
  std::size_t last = stretch.base + end;
  if (stretch.origins != nullptr && begin < end) {
    first = stretch.base + stretch.origins[begin].begin;
    last = stretch.base + stretch.origins[end - 1].end;
  }
  draft_.offsets.emplace_back(characters_.begin(first, text_.size()), characters_.end(last));
}

// The text itself if it is valid UTF-8, else `repaired`, filled.
std::string_view valid_text(std::string_view text, std::string& repaired) {
  if (text.size() > kMaxText) {
    fail(ErrorCode::invalid_argument, "cannot encode a text of {} bytes at once, at most {}", text.size(), kMaxText);
  }
  if (text::valid_prefix(text) == text.size()) return text;
  text::append_lossy(repaired, text, false);
  return repaired;
}

}  // namespace

text::Draft text::TokenizerParts::encode(std::string_view text, bool with_offsets, bool continues) const {
  return Encoder(*this, text, with_offsets, continues).run();
}

bool text::TokenizerParts::normalize(std::string_view text, bool with_origins, bool continues, Normalized& out) const {
  bool changed = false;
  for (const NormalizerStep& step : normalizer) {
    if (continues && std::holds_alternative<PrependStep>(step)) continue;
    Normalized next;
    if (!apply(step, changed ? std::string_view(out.text) : text, with_origins, next)) continue;
    if (changed) trace_back(next.origins, out.origins.data());
    out = std::move(next);
    changed = true;
  }
  return changed;
}

void text::TokenizerParts::append_bytes(std::string& out, TokenId id, bool skip_special_tokens,
                                        DecodeState& state) const {
  const text::AddedToken* token = added.find(id);
  if (token != nullptr && skip_special_tokens && added.is_special(token->shown)) return;
  if (word_decoder || piece_decoder) {
    std::optional<std::string> spelled = token != nullptr ? token->shown : model->id_to_token(id);
    if (!spelled) return;
    if (piece_decoder) return piece_decoder->append(out, *std::move(spelled), state);
    word_decoder->append(out, *std::move(spelled), state.first);
    state.first = false;
  } else if (token == nullptr) {
    model->append_bytes(out, id);
  } else if (!text::append_from_byte_level(out, token->shown)) {
    out += token->shown;
  }
}

void text::TokenizerParts::finish(std::string& out, DecodeState& state) const {
  if (piece_decoder) piece_decoder->finish(out, state);
}

Tokenizer::Tokenizer(std::shared_ptr<const text::TokenizerParts> parts) : parts_(std::move(parts)) {}
Tokenizer::Tokenizer(const Tokenizer&) = default;
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(const Tokenizer&) = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

Tokenizer Tokenizer::from_json(std::string_view json, const std::string& name, const TokenizerOptions& options) {
  return Tokenizer(text::parse_tokenizer(std::string(json), name, options.truncate));
}

Tokenizer Tokenizer::from_file(const std::filesystem::path& path, const TokenizerOptions& options) {
  std::error_code error;
  const auto size = std::filesystem::file_size(path, error);
  if (error) fail(ErrorCode::io, "cannot read {}: {}", path.string(), error.message());
  std::ifstream file(path, std::ios::binary);
  std::string json;
  json.reserve(static_cast<std::size_t>(size) + 64);  // room that lets simdjson parse without a copy
  json.resize(static_cast<std::size_t>(size));
  if (!file.read(json.data(), static_cast<std::streamsize>(size))) {
    fail(ErrorCode::io, "cannot read the {} bytes of {}", size, path.string());
  }
  return Tokenizer(text::parse_tokenizer(json, path.string(), options.truncate));
}

Encoding Tokenizer::encode(std::string_view text, bool add_special_tokens) const {
  return encode(text, EncodeOptions{.add_special_tokens = add_special_tokens});
}

Encoding Tokenizer::encode(std::string_view text, const EncodeOptions& options) const {
  std::string repaired;
  Draft draft = parts_->encode(valid_text(text, repaired), true, options.continues);
  parts_->post_processor.run(draft, true, options.add_special_tokens, options.max_tokens);
  return {std::move(draft.ids), std::move(draft.offsets)};
}

std::vector<TokenId> Tokenizer::encode_ids(std::string_view text, bool add_special_tokens) const {
  return encode_ids(text, EncodeOptions{.add_special_tokens = add_special_tokens});
}

std::vector<TokenId> Tokenizer::encode_ids(std::string_view text, const EncodeOptions& options) const {
  std::string repaired;
  Draft draft = parts_->encode(valid_text(text, repaired), false, options.continues);
  parts_->post_processor.run(draft, false, options.add_special_tokens, options.max_tokens);
  return std::move(draft.ids);
}

std::string Tokenizer::decode(std::span<const TokenId> ids, bool skip_special_tokens) const {
  std::string bytes;
  text::DecodeState state;
  for (const TokenId id : ids) parts_->append_bytes(bytes, id, skip_special_tokens, state);
  parts_->finish(bytes, state);
  if (text::valid_prefix(bytes) == bytes.size()) return bytes;
  std::string out;
  text::append_lossy(out, bytes, false);
  return out;
}

std::optional<TokenId> Tokenizer::token_to_id(std::string_view token) const {
  if (text::valid_prefix(token) != token.size()) return std::nullopt;
  if (const text::AddedToken* added = parts_->added.find(token)) return added->id;
  return parts_->model->token_to_id(token);
}

std::optional<std::string> Tokenizer::id_to_token(TokenId id) const {
  if (const text::AddedToken* added = parts_->added.find(id)) return added->shown;
  return parts_->model->id_to_token(id);
}

bool Tokenizer::is_special(TokenId id) const {
  const text::AddedToken* added = parts_->added.find(id);
  return added != nullptr && added->special;
}

std::size_t Tokenizer::vocab_size() const {
  std::size_t count = parts_->model->vocab_size();
  for (const text::AddedToken& token : parts_->added.all()) {
    if (!parts_->model->id_to_token(token.id)) ++count;
  }
  return count;
}

std::optional<std::size_t> Tokenizer::truncation_length() const {
  const auto& truncation = parts_->post_processor.truncation();
  return truncation ? std::optional(truncation->length) : std::nullopt;
}

DecodeStream::DecodeStream(const Tokenizer& tokenizer, bool skip_special_tokens)
    : tokenizer_(tokenizer), skip_special_tokens_(skip_special_tokens), state_{.streams = true} {}

std::string DecodeStream::push(TokenId id) {
  tokenizer_.parts_->append_bytes(pending_, id, skip_special_tokens_, state_);
  std::string out;
  pending_.erase(0, text::append_lossy(out, pending_, true));
  return out;
}

void DecodeStream::follow(std::span<const TokenId> ids) {
  for (const TokenId id : ids) push(id);
}

std::string DecodeStream::finish() {
  tokenizer_.parts_->finish(pending_, state_);
  std::string out;
  text::append_lossy(out, pending_, false);
  pending_.clear();
  state_ = {.streams = true};
  return out;
}

}  // namespace wick
