#include "text/bpe_file.h"

#include "text/bpe.h"
#include "text/byte_level.h"
#include "text/vocab.h"

namespace wick::text {
namespace {

namespace dom = simdjson::dom;

// A token for a message: not more of it than fits in a line.
std::string shown(std::string_view token) {
  return token.size() <= 60 ? std::string(token) : fmt::format("{}...", token.substr(0, 60));
}

// The bytes of a token, and whether it is not written in the byte-level alphabet.
struct TokenBytes {
  std::string bytes;
  bool literal = false;

  void read(std::string_view token) {
    bytes.clear();
    literal = !append_from_byte_level(bytes, token);
    if (literal) bytes = token;
  }
};

Vocab read_vocab(const JsonValue& value) {
  const dom::object entries = value.object();
  Vocab vocab;
  std::size_t count = 0;
  std::size_t size = 0;
  for (const auto& entry : entries) {
    ++count;
    size += entry.key.size();
  }
  vocab.reserve(count, size);
  TokenBytes token;
  for (const auto& entry : entries) {
    std::uint64_t id = 0;
    if (entry.value.get(id) != simdjson::SUCCESS || id >= kMaxTokenId) {
      value.child(entry.value, shown(entry.key)).integer_below(kMaxTokenId);
    }
    token.read(entry.key);
    switch (vocab.add(static_cast<TokenId>(id), token.bytes, token.literal)) {
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

class MergeReader {
 public:
  MergeReader(const JsonValue& merges, const Vocab& vocab) : merges_(merges), vocab_(vocab) {}

  MergeTable read() {
    const dom::array list = merges_.array();
    table_.reserve(list.size());
    for (const dom::element item : list) {
      std::string_view left;
      std::string_view right;
      if (split(item, left, right)) add(left, right);
      ++index_;
    }
    return std::move(table_);
  }

 private:
  // Both spellings: "a b" and ["a", "b"]. False for the version line that files made from merges.txt can begin with.
  bool split(dom::element item, std::string_view& left, std::string_view& right) const {
    std::string_view text;
    if (item.get(text) == simdjson::SUCCESS) {
      if (text.starts_with("#version")) return false;
      const std::size_t space = text.find(' ');
      if (space == std::string_view::npos || text.find(' ', space + 1) != std::string_view::npos) {
        at().format("is \"{}\", expected two tokens with a space between them", shown(text));
      }
      left = text.substr(0, space);
      right = text.substr(space + 1);
      return true;
    }
    dom::array pair;
    if (item.get(pair) != simdjson::SUCCESS || pair.size() != 2 || pair.at(0).get(left) != simdjson::SUCCESS ||
        pair.at(1).get(right) != simdjson::SUCCESS) {
      at().format("is neither \"a b\" nor [\"a\", \"b\"]");
    }
    return true;
  }

  void add(std::string_view left, std::string_view right) {
    left_.read(left);
    right_.read(right);
    const TokenId left_id = id_of(left_, left);
    const TokenId right_id = id_of(right_, right);
    const bool literal = left_.literal || right_.literal;
    if (literal && !(left_.literal && right_.literal)) {
      joined_.read(std::string(left) + std::string(right));
    } else {
      joined_.literal = literal;
      joined_.bytes = left_.bytes;
      joined_.bytes += right_.bytes;
    }
    // Most vocabularies have the joined tokens in the order of their merges.
    TokenId joined = last_joined_ + 1;
    if (!vocab_.contains(joined) || vocab_.text(joined) != joined_.bytes || vocab_.tag(joined) != joined_.literal) {
      const auto found = vocab_.find(joined_.bytes, joined_.literal);
      if (!found) at().format("joins to \"{}{}\", which the vocabulary does not have", shown(left), shown(right));
      joined = *found;
    }
    last_joined_ = joined;
    table_.set(left_id, right_id, {static_cast<std::uint32_t>(index_), joined});
  }

  TokenId id_of(const TokenBytes& token, std::string_view text) const {
    if (!token.literal && token.bytes.size() == 1) {
      // A quarter of all halves are single bytes.
      TokenId& known = byte_ids_[static_cast<unsigned char>(token.bytes[0])];
      if (known < 0) known = look_up(token, text);
      return known;
    }
    return look_up(token, text);
  }
  TokenId look_up(const TokenBytes& token, std::string_view text) const {
    const auto id = vocab_.find(token.bytes, token.literal);
    if (!id) at().format("names \"{}\", which the vocabulary does not have", shown(text));
    return *id;
  }

  JsonValue at() const { return {{}, merges_.file(), fmt::format("{}[{}]", merges_.path(), index_)}; }

  const JsonValue& merges_;
  const Vocab& vocab_;
  MergeTable table_;
  std::size_t index_ = 0;
  TokenId last_joined_ = 0;
  TokenBytes left_;
  TokenBytes right_;
  TokenBytes joined_;
  mutable std::array<TokenId, 256> byte_ids_ = [] {
    std::array<TokenId, 256> none{};
    none.fill(-1);
    return none;
  }();
};

}  // namespace

std::unique_ptr<const Model> read_bpe(const JsonValue& model) {
  model.only({"type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk",
              "byte_fallback", "ignore_merges", "vocab", "merges"});
  if (const auto dropout = model.find("dropout")) {
    // Random merges: no two runs would agree.
    if (dropout->number() != 0) dropout->unsupported("is not 0: merges that are left out at random are not supported");
  }
  for (const std::string_view affix : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    const auto value = model.find(affix);
    if (value && !value->string().empty()) value->unsupported("is \"{}\", which is not supported", value->string());
  }
  const JsonValue vocab_value = model.at("vocab");
  Vocab vocab = read_vocab(vocab_value);
  const JsonValue merges_value = model.at("merges");
  MergeTable merges = MergeReader(merges_value, vocab).read();

  bool every_byte = true;
  for (unsigned byte = 0; byte < 256; ++byte) {
    const char c = static_cast<char>(static_cast<unsigned char>(byte));
    every_byte = every_byte && vocab.find({&c, 1}, false);
  }
  BpeModel::Options options;
  options.ignore_merges = model.boolean_or("ignore_merges", false);
  options.fuse_unk = model.boolean_or("fuse_unk", false);
  // With a token for every byte neither of these two can ever act.
  if (!every_byte) {
    if (model.boolean_or("byte_fallback", false)) {
      model.unsupported("has byte_fallback and no token for some bytes, which is not supported");
    }
    if (const auto unk = model.find("unk_token")) {
      TokenBytes token;
      token.read(unk->string());
      options.unk_token = vocab.find(token.bytes, token.literal);
      if (!options.unk_token) unk->format("is \"{}\", which the vocabulary does not have", shown(unk->string()));
    }
  }
  return std::make_unique<const BpeModel>(std::move(vocab), std::move(merges), options);
}

}  // namespace wick::text
