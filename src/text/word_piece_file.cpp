#include "text/word_piece_file.h"

#include <limits>

#include "text/word_piece.h"

namespace wick::text {
namespace {

// A token for a message: not more of it than fits in a line.
std::string shown(std::string_view token) {
  return token.size() <= 60 ? std::string(token) : fmt::format("{}...", token.substr(0, 60));
}

Vocab read_vocab(const JsonValue& value, std::string_view prefix) {
  const simdjson::dom::object entries = value.object();
  std::size_t count = 0;
  std::size_t size = 0;
  for (const auto& entry : entries) {
    ++count;
    size += entry.key.size();
  }
  Vocab vocab;
  vocab.reserve(count, size);
  for (const auto& entry : entries) {
    std::uint64_t id = 0;
    if (entry.value.get(id) != simdjson::SUCCESS || id >= kMaxTokenId) {
      value.child(entry.value, shown(entry.key)).integer_below(kMaxTokenId);
    }
    const bool continues = entry.key.starts_with(prefix);
    const std::string_view text = continues ? entry.key.substr(prefix.size()) : entry.key;
    switch (vocab.add(static_cast<TokenId>(id), text, continues)) {
      case Vocab::Added::ok:
        break;
      case Vocab::Added::duplicate_text:
        value.format("has the token \"{}\" twice", shown(entry.key));
      case Vocab::Added::duplicate_id:
        value.format("has the id {} twice, also for \"{}\"", id, shown(entry.key));
    }
  }
  return vocab;
}

}  // namespace

std::unique_ptr<const Model> read_word_piece(const JsonValue& model) {
  model.only({"type", "unk_token", "continuing_subword_prefix", "max_input_chars_per_word", "vocab"});
  WordPieceModel::Options options;
  options.prefix = model.at("continuing_subword_prefix").string();
  options.max_input = model.at("max_input_chars_per_word").integer_below(std::numeric_limits<std::uint64_t>::max());
  Vocab vocab = read_vocab(model.at("vocab"), options.prefix);
  const JsonValue unk = model.at("unk_token");
  const std::string_view name = unk.string();
  const bool continues = name.starts_with(options.prefix);
  const auto id = vocab.find(continues ? name.substr(options.prefix.size()) : name, continues);
  if (!id) unk.format("is \"{}\", which the vocabulary does not have", shown(name));
  options.unk_token = *id;
  return std::make_unique<const WordPieceModel>(std::move(vocab), std::move(options));
}

}  // namespace wick::text
