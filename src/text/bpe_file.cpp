#include "text/bpe_file.h"

#include <array>
#include <string>

#include "text/bpe.h"
#include "text/byte_level.h"
#include "text/character_bpe.h"
#include "text/vocab.h"

namespace wick::text {
namespace {

namespace dom = simdjson::dom;

// A token for a message: not more of it than fits in a line.
std::string shown(std::string_view token) {
  return token.size() <= 60 ? std::string(token) : fmt::format("{}...", token.substr(0, 60));
}

// How many look-ups are under way at once (see Vocab::Probe).
constexpr std::size_t kBatch = 32;

// The bytes of a token; in a byte-level vocabulary also whether it is not written in that alphabet.
struct TokenBytes {
  std::string bytes;
  bool literal = false;
  Vocab::Probe probe{};

  void read(std::string_view token, BpeUnit unit) {
    bytes.clear();
    literal = unit == BpeUnit::byte && !append_from_byte_level(bytes, token);
    if (literal || unit == BpeUnit::character) bytes = token;
    probe = Vocab::probe(bytes, literal);
  }
};

class VocabReader {
 public:
  VocabReader(const JsonValue& value, BpeUnit unit) : value_(value), unit_(unit) {}

  Vocab read() {
    const dom::object entries = value_.object();
    std::size_t count = 0;
    std::size_t size = 0;
    for (const auto& entry : entries) {
      ++count;
      size += entry.key.size();
    }
    vocab_.reserve(count, size);
    for (const auto& entry : entries) {
      std::uint64_t id = 0;
      if (entry.value.get(id) != simdjson::SUCCESS || id >= kMaxTokenId) {
        value_.child(entry.value, shown(entry.key)).integer_below(kMaxTokenId);
      }
      Item& item = batch_[filled_++];
      item.key = entry.key;
      item.id = static_cast<TokenId>(id);
      item.token.read(entry.key, unit_);
      vocab_.fetch_slot(item.token.probe);
      if (filled_ == kBatch) flush();
    }
    flush();
    return std::move(vocab_);
  }

 private:
  struct Item {
    std::string_view key;
    TokenId id = -1;
    TokenBytes token;
  };

  void flush() {
    for (std::size_t i = 0; i < filled_; ++i) {
      const auto& [key, id, token] = batch_[i];
      switch (vocab_.add(token.probe, id, token.bytes, token.literal)) {
        case Vocab::Added::ok:
          break;
        case Vocab::Added::duplicate_text:
          value_.format("has the token \"{}\" twice", shown(key));
        case Vocab::Added::duplicate_id:
          value_.format("has the id {} twice, also for \"{}\"", id, shown(key));
      }
    }
    filled_ = 0;
  }

  const JsonValue& value_;
  BpeUnit unit_;
  Vocab vocab_;
  std::array<Item, kBatch> batch_;
  std::size_t filled_ = 0;
};

class MergeReader {
 public:
  MergeReader(const JsonValue& merges, const Vocab& vocab, BpeUnit unit)
      : merges_(merges), vocab_(vocab), unit_(unit) {}

  MergeTable read() {
    const dom::array list = merges_.array();
    table_.reserve(list.size());
    std::size_t index = 0;
    for (const dom::element item : list) {
      Merge& merge = batch_[filled_];
      merge.index = index++;
      if (!split(item, merge)) continue;
      if (merge.left.empty() || merge.right.empty()) at(merge).format("has an empty token");
      merge.left_bytes.read(merge.left, unit_);
      merge.right_bytes.read(merge.right, unit_);
      vocab_.fetch_slot(merge.left_bytes.probe);
      vocab_.fetch_slot(merge.right_bytes.probe);
      if (++filled_ == kBatch) flush();
    }
    flush();
    return std::move(table_);
  }

 private:
  struct Merge {
    std::size_t index = 0;
    std::string_view left;
    std::string_view right;
    TokenBytes left_bytes;
    TokenBytes right_bytes;
    TokenId left_id = -1;
    TokenId right_id = -1;
  };

  // Both spellings: "a b" and ["a", "b"]. False for the version line that files made from merges.txt can begin with.
  bool split(dom::element item, Merge& merge) const {
    std::string_view text;
    if (item.get(text) == simdjson::SUCCESS) {
      if (text.starts_with("#version")) return false;
      const std::size_t space = text.find(' ');
      if (space == std::string_view::npos || text.find(' ', space + 1) != std::string_view::npos) {
        at(merge).format("is \"{}\", expected two tokens with a space between them", shown(text));
      }
      merge.left = text.substr(0, space);
      merge.right = text.substr(space + 1);
      return true;
    }
    dom::array pair;
    if (item.get(pair) != simdjson::SUCCESS || pair.size() != 2 || pair.at(0).get(merge.left) != simdjson::SUCCESS ||
        pair.at(1).get(merge.right) != simdjson::SUCCESS) {
      at(merge).format("is neither \"a b\" nor [\"a\", \"b\"]");
    }
    return true;
  }

  void flush() {
    const auto each = [this](auto&& use) {
      for (std::size_t i = 0; i < filled_; ++i) use(batch_[i]);
    };
    each([&](const Merge& m) { vocab_.fetch_entry(m.left_bytes.probe), vocab_.fetch_entry(m.right_bytes.probe); });
    each([&](const Merge& m) { vocab_.fetch_text(m.left_bytes.probe), vocab_.fetch_text(m.right_bytes.probe); });
    each([&](Merge& m) {
      m.left_id = id_of(m, m.left_bytes, m.left);
      m.right_id = id_of(m, m.right_bytes, m.right);
      table_.fetch(m.left_id, m.right_id);
    });
    each([&](const Merge& m) { table_.set(m.left_id, m.right_id, {static_cast<std::uint32_t>(m.index), joined(m)}); });
    filled_ = 0;
  }

  TokenId id_of(const Merge& merge, const TokenBytes& token, std::string_view text) const {
    const auto id = vocab_.find(token.probe, token.bytes, token.literal);
    if (!id) at(merge).format("names \"{}\", which the vocabulary does not have", shown(text));
    return *id;
  }

  TokenId joined(const Merge& merge) {
    joined_.bytes = merge.left_bytes.bytes;
    joined_.bytes += merge.right_bytes.bytes;
    joined_.literal = merge.left_bytes.literal;
    if (merge.left_bytes.literal || merge.right_bytes.literal) {
      joined_.bytes = merge.left;
      joined_.bytes += merge.right;
      joined_.literal = true;  // a character of one half is not in the alphabet, so one of the whole is not
    }
    // Most vocabularies have the joined tokens in the order of their merges.
    const TokenId next = last_joined_ + 1;
    if (vocab_.contains(next) && vocab_.text(next) == joined_.bytes && vocab_.tag(next) == joined_.literal) {
      return last_joined_ = next;
    }
    const auto found = vocab_.find(joined_.bytes, joined_.literal);
    if (!found) {
      at(merge).format("joins to \"{}{}\", which the vocabulary does not have", shown(merge.left), shown(merge.right));
    }
    return last_joined_ = *found;
  }

  JsonValue at(const Merge& merge) const {
    return {{}, merges_.file(), fmt::format("{}[{}]", merges_.path(), merge.index)};
  }

  const JsonValue& merges_;
  const Vocab& vocab_;
  BpeUnit unit_;
  MergeTable table_;
  std::array<Merge, kBatch> batch_;
  std::size_t filled_ = 0;
  TokenBytes joined_;
  TokenId last_joined_ = 0;
};

// The token of "unk_token", if there is one.
std::optional<TokenId> read_unk_token(const JsonValue& model, const Vocab& vocab, BpeUnit unit) {
  const auto unk = model.find("unk_token");
  if (!unk) return std::nullopt;
  TokenBytes token;
  token.read(unk->string(), unit);
  const auto id = vocab.find(token.bytes, token.literal);
  if (!id) unk->format("is \"{}\", which the vocabulary does not have", shown(unk->string()));
  return id;
}

std::unique_ptr<const Model> make_byte_model(const JsonValue& model, Vocab vocab, MergeTable merges) {
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
    options.unk_token = read_unk_token(model, vocab, BpeUnit::byte);
  }
  return std::make_unique<const BpeModel>(std::move(vocab), std::move(merges), options);
}

std::unique_ptr<const Model> make_character_model(const JsonValue& model, Vocab vocab, MergeTable merges) {
  CharacterBpeModel::Options options;
  options.ignore_merges = model.boolean_or("ignore_merges", false);
  options.byte_fallback = model.boolean_or("byte_fallback", false);
  options.fuse_unk = model.boolean_or("fuse_unk", false);
  options.unk_token = read_unk_token(model, vocab, BpeUnit::character);
  return std::make_unique<const CharacterBpeModel>(std::move(vocab), std::move(merges), options);
}

}  // namespace

std::unique_ptr<const Model> read_bpe(const JsonValue& model, BpeUnit unit) {
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
  Vocab vocab = VocabReader(vocab_value, unit).read();
  const JsonValue merges_value = model.at("merges");
  MergeTable merges = MergeReader(merges_value, vocab, unit).read();
  return unit == BpeUnit::byte ? make_byte_model(model, std::move(vocab), std::move(merges))
                               : make_character_model(model, std::move(vocab), std::move(merges));
}

}  // namespace wick::text
