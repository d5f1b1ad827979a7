// Reads a tokenizer.json: the sections around the model.
#include <algorithm>
#include <limits>
#include <unordered_set>

#include "text/bpe_file.h"
#include "text/decoder_file.h"
#include "text/json_value.h"
#include "text/section_values.h"
#include "text/tokenizer_parts.h"
#include "text/unigram.h"
#include "text/vocab.h"
#include "text/word_piece_file.h"

namespace wick::text {
namespace {

namespace dom = simdjson::dom;

// GPT-2's pattern, which ByteLevel uses when use_regex is set.
constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// The pre-tokenizer Whitespace: \w+|[^\w\s]+ with Unicode's words and White_Space (PCRE2's own \s has U+180E besides).
constexpr std::string_view kWordsOrSymbols =
    R"([\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]+|)"
    R"([^\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}\x09-\x0d\x20\x85\xa0\x{1680}\x{2000}-\x{200a}\x{2028})"
    R"(\x{2029}\x{202f}\x{205f}\x{3000}]+)";

constexpr std::uint64_t kAnyNumber = std::numeric_limits<std::uint64_t>::max();

enum class ModelKind { bpe, word_piece, unigram };

void read_bert_normalizer(const JsonValue& value, std::vector<NormalizerStep>& out) {
  value.only({"type", "clean_text", "handle_chinese_chars", "strip_accents", "lowercase"});
  const bool lowercase = value.at("lowercase").boolean();
  if (value.at("clean_text").boolean()) out.emplace_back(CharacterMap::clean);
  if (value.at("handle_chinese_chars").boolean()) out.emplace_back(CharacterMap::space_cjk);
  if (value.boolean_or("strip_accents", lowercase)) {
    out.emplace_back(NormalForm::nfd);
    out.emplace_back(CharacterMap::strip_accents);
  }
  if (lowercase) out.emplace_back(CharacterMap::lowercase);
}

void read_normalizer(const JsonValue& value, std::vector<NormalizerStep>& out) {
  const std::string_view type = value.at("type").string();
  if (type == "Sequence") {
    value.only({"type", "normalizers"});
    return value.at("normalizers").for_each([&](const JsonValue& part) { read_normalizer(part, out); });
  }
  if (type == "BertNormalizer") return read_bert_normalizer(value, out);
  if (type == "Precompiled") {
    value.only({"type", "precompiled_charsmap"});
    out.emplace_back(Precompiled(value.at("precompiled_charsmap")));
    return;
  }
  if (type == "Replace") {
    out.emplace_back(read_replace(value));
    return;
  }
  if (type == "Strip") {
    value.only({"type", "strip_left", "strip_right"});
    out.emplace_back(StripStep{value.at("strip_left").boolean(), value.at("strip_right").boolean()});
    return;
  }
  if (type == "Prepend") {
    value.only({"type", "prepend"});
    out.emplace_back(PrependStep{std::string(value.at("prepend").string())});
    return;
  }
  if (type == "NFC") {
    out.emplace_back(NormalForm::nfc);
  } else if (type == "NFD") {
    out.emplace_back(NormalForm::nfd);
  } else if (type == "NFKC") {
    out.emplace_back(NormalForm::nfkc);
  } else if (type == "NFKD") {
    out.emplace_back(NormalForm::nfkd);
  } else if (type == "Lowercase") {
    out.emplace_back(CharacterMap::lowercase);
  } else if (type == "StripAccents") {
    out.emplace_back(CharacterMap::strip_marks);
  } else {
    value.unsupported("is {}, a normalizer that is not supported", type);
  }
  value.only({"type"});
}

SplitBehavior read_behavior(const JsonValue& value) {
  const std::string_view name = value.string();
  if (name == "Removed") return SplitBehavior::removed;
  if (name == "Isolated") return SplitBehavior::isolated;
  if (name == "MergedWithPrevious") return SplitBehavior::merged_with_previous;
  if (name == "MergedWithNext") return SplitBehavior::merged_with_next;
  if (name == "Contiguous") return SplitBehavior::contiguous;
  value.format("is \"{}\", expected Removed, Isolated, MergedWithPrevious, MergedWithNext or Contiguous", name);
}

class PreTokenizerReader {
 public:
  explicit PreTokenizerReader(ModelKind kind) : kind_(kind) {}

  std::vector<PreTokenizer::Step> read(const JsonValue& value) {
    read_step(value);
    return std::move(steps_);
  }
  /// Whether what was read ends in ByteLevel.
  bool byte_level() const { return byte_level_; }

 private:
  void read_step(const JsonValue& value) {
    const std::string_view type = value.at("type").string();
    if (type == "Sequence") {
      value.only({"type", "pretokenizers"});
      return value.at("pretokenizers").for_each([&](const JsonValue& part) { read_step(part); });
    }
    // After it the text is no longer text, but bytes spelled as letters.
    if (byte_level_) value.unsupported("is {} after ByteLevel, which is not supported", type);
    const std::string& file = value.file();
    if (type == "ByteLevel") {
      if (kind_ != ModelKind::bpe) value.unsupported("is ByteLevel, which is supported only with BPE");
      value.only({"type", "add_prefix_space", "trim_offsets", "use_regex"});
      if (value.at("add_prefix_space").boolean()) steps_.emplace_back(PrefixSpaceStep{});
      if (value.boolean_or("use_regex", true)) split(Regex(kGpt2Pattern, file), SplitBehavior::isolated, false);
      byte_level_ = true;
    } else if (type == "Split") {
      value.only({"type", "pattern", "behavior", "invert"});
      split(read_pattern(value.at("pattern")), read_behavior(value.at("behavior")), value.boolean_or("invert", false));
    } else if (type == "Metaspace") {
      steps_.emplace_back(read_metaspace(value));
    } else if (type == "Digits") {
      value.only({"type", "individual_digits"});
      const bool single = value.boolean_or("individual_digits", false);
      split(Regex(single ? "\\p{N}" : "\\p{N}+", file), SplitBehavior::isolated, false);
    } else if (type == "Punctuation") {
      value.only({"type", "behavior"});
      const auto behavior = value.find("behavior");
      split(Regex(R"([\p{P}!-\/:-@\[-`{-~])", file), behavior ? read_behavior(*behavior) : SplitBehavior::isolated,
            false);
    } else if (type == "BertPreTokenizer" || type == "WhitespaceSplit") {
      value.only({"type"});
      steps_.emplace_back(WordsStep{type == "BertPreTokenizer"});
    } else if (type == "Whitespace") {
      value.only({"type"});
      split(Regex(kWordsOrSymbols, Regex::Pcre{}, file), SplitBehavior::removed, true);
    } else {
      value.unsupported("is {}, a pre-tokenizer that is not supported", type);
    }
  }

  void split(Regex regex, SplitBehavior behavior, bool invert) {
    steps_.emplace_back(SplitStep{std::move(regex), behavior, invert});
  }

  ModelKind kind_;
  std::vector<PreTokenizer::Step> steps_;
  bool byte_level_ = false;
};

TemplateStep read_template(const JsonValue& value) {
  value.only({"type", "single", "pair", "special_tokens"});
  const JsonValue tokens = value.at("special_tokens");
  TemplateStep step;
  value.at("single").for_each([&](const JsonValue& piece) {
    piece.only({"Sequence", "SpecialToken"});
    if (const auto sequence = piece.find("Sequence")) {
      if (const auto id = sequence->at("id").string(); id != "A") {
        piece.format("is the sequence \"{}\", expected \"A\"", id);
      }
      step.pieces.emplace_back();
      return;
    }
    const std::string_view name = piece.at("SpecialToken").at("id").string();
    tokens.at(name).at("ids").for_each(
        [&](const JsonValue& id) { step.pieces.emplace_back(static_cast<TokenId>(id.integer_below(kMaxTokenId))); });
  });
  return step;
}

// One token with its id, as in ["[SEP]", 102].
TokenId read_named_id(const JsonValue& value) {
  dom::element id;
  if (value.array().size() != 2 || value.array().at(1).get(id) != simdjson::SUCCESS) {
    value.format("is not a list of a token and its id");
  }
  return static_cast<TokenId>(value.child(id, "1").integer_below(kMaxTokenId));
}

TemplateStep read_cls_and_sep(const JsonValue& value) {
  return {{read_named_id(value.at("cls")), std::nullopt, read_named_id(value.at("sep"))}};
}

void read_post_processor(const JsonValue& value, std::vector<PostProcessor::Step>& out) {
  const std::string_view type = value.at("type").string();
  if (type == "Sequence") {
    value.only({"type", "processors"});
    value.at("processors").for_each([&](const JsonValue& part) { read_post_processor(part, out); });
  } else if (type == "ByteLevel") {
    value.only({"type", "add_prefix_space", "trim_offsets", "use_regex"});
    const bool prefix = value.at("add_prefix_space").boolean();
    if (value.at("trim_offsets").boolean()) out.emplace_back(TrimStep{prefix});
  } else if (type == "TemplateProcessing") {
    out.emplace_back(read_template(value));
  } else if (type == "BertProcessing") {
    value.only({"type", "sep", "cls"});
    out.emplace_back(read_cls_and_sep(value));
  } else if (type == "RobertaProcessing") {
    value.only({"type", "sep", "cls", "trim_offsets", "add_prefix_space"});
    const bool prefix = value.at("add_prefix_space").boolean();
    if (value.at("trim_offsets").boolean()) out.emplace_back(TrimStep{prefix});
    out.emplace_back(read_cls_and_sep(value));
  } else {
    value.unsupported("is {}, a post-processor that is not supported", type);
  }
}

std::optional<Truncation> read_truncation(const JsonValue& file, std::size_t added) {
  const auto value = file.find("truncation");
  if (!value) return std::nullopt;
  value->only({"direction", "max_length", "strategy", "stride"});
  // For a single sequence the first two strategies are the same, and the third has nothing to cut.
  const std::string_view strategy = value->at("strategy").string();
  if (strategy != "LongestFirst" && strategy != "OnlyFirst") {
    value->unsupported("has the strategy \"{}\", which is not supported", strategy);
  }
  const auto direction = value->find("direction");
  const std::string_view side = direction ? direction->string() : "Right";
  if (side != "Right" && side != "Left") value->format("has the direction \"{}\", expected Right or Left", side);
  const std::uint64_t length = value->at("max_length").integer_below(kAnyNumber);
  if (length < added) {
    value->format("has max_length {}, less than the {} tokens that the template adds", length, added);
  }
  return Truncation{static_cast<std::size_t>(length), side == "Left"};
}

std::vector<AddedToken> read_added_tokens(const JsonValue& file, const Model& model) {
  std::vector<AddedToken> tokens;
  std::unordered_set<std::string_view> contents;
  std::unordered_set<TokenId> ids;
  auto next_id = static_cast<TokenId>(model.vocab_size());
  const auto list = file.find("added_tokens");
  if (!list) return tokens;
  list->for_each([&](const JsonValue& value) {
    value.only({"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"});
    const std::string_view content = value.at("content").string();
    AddedToken token;
    token.content = content;
    token.id = static_cast<TokenId>(value.at("id").integer_below(kMaxTokenId));
    token.single_word = value.at("single_word").boolean();
    token.lstrip = value.at("lstrip").boolean();
    token.rstrip = value.at("rstrip").boolean();
    token.normalized = value.at("normalized").boolean();
    token.special = value.at("special").boolean();
    if (content.empty()) value.format("has an empty content");
    if (!contents.insert(content).second) value.format("is \"{}\", which is in the list twice", content);
    if (!ids.insert(token.id).second) value.format("has the id {}, which is in the list twice", token.id);
    // A new token gets the next free id, whatever the file says, from the library that defines the format. A file that
    // says otherwise means one of two things.
    const TokenId expected = model.token_to_id(content).value_or(next_id);
    if (token.id != expected) {
      value.format("is \"{}\" with the id {}, expected the id {}", content, token.id, expected);
    }
    if (const auto other = model.id_to_token(token.id); other && *other != content) {
      value.format("is \"{}\" with the id {}, which is \"{}\" in the vocabulary", content, token.id, *other);
    }
    next_id = std::max(next_id, token.id + 1);
    tokens.push_back(std::move(token));
  });
  return tokens;
}

ModelKind kind_of(const JsonValue& model) {
  if (const auto type = model.find("type")) {
    if (type->string() == "BPE") return ModelKind::bpe;
    if (type->string() == "WordPiece") return ModelKind::word_piece;
    if (type->string() == "Unigram") return ModelKind::unigram;
    type->unsupported("is {}, a model that is not supported", type->string());
  }
  // Old files have no type.
  if (model.find("merges")) return ModelKind::bpe;
  if (model.find("max_input_chars_per_word")) return ModelKind::word_piece;
  model.format("has no \"type\"");
}

// Reads the sections that have to fit each other: what the pre-tokenizer makes of text, the model takes and the decoder
// turns back.
void read_model(const JsonValue& file, TokenizerParts& parts) {
  const JsonValue model = file.at("model");
  const ModelKind kind = kind_of(model);
  bool byte_level = false;
  if (const auto pre_tokenizer = file.find("pre_tokenizer")) {
    PreTokenizerReader reader(kind);
    parts.pre_tokenizer = PreTokenizer(reader.read(*pre_tokenizer));
    byte_level = reader.byte_level();
  }
  const auto decoder = file.find("decoder");
  if (kind == ModelKind::word_piece) {
    parts.model = read_word_piece(model);
    parts.word_decoder = read_word_decoder(decoder);
    parts.margins_of = MarginsOf::spelling;
    return;
  }
  if (kind == ModelKind::unigram) {
    parts.model = read_unigram(model);
    parts.margins_of = MarginsOf::piece;
  } else {
    parts.model = read_bpe(model, byte_level ? BpeUnit::byte : BpeUnit::character);
    parts.margins_of = byte_level ? MarginsOf::bytes : MarginsOf::spelling;
  }
  if (!decoder) {
    file.unsupported("has no decoder, which {} needs", kind == ModelKind::unigram ? "Unigram" : "BPE");
  }
  parts.piece_decoder = read_decoder(*decoder);
  if (byte_level && parts.piece_decoder) {
    decoder->unsupported("is not ByteLevel, which the ByteLevel of pre_tokenizer needs");
  }
  if (!byte_level && !parts.piece_decoder) {
    decoder->unsupported("is ByteLevel, which is not supported without a ByteLevel in pre_tokenizer");
  }
}

}  // namespace

std::shared_ptr<const TokenizerParts> parse_tokenizer(const std::string& json, const std::string& name, bool truncate) {
  dom::parser parser;
  dom::element root;
  if (const auto error = parser.parse(json).get(root); error != simdjson::SUCCESS) {
    fail(ErrorCode::format, "{}: the file is not JSON: {}", name, simdjson::error_message(error));
  }
  const JsonValue file(root, name, "");
  file.only({"version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer", "post_processor",
             "decoder", "model"});
  if (const auto version = file.find("version"); version && version->string() != "1.0") {
    version->unsupported("is \"{}\", expected \"1.0\"", version->string());
  }

  auto parts = std::make_shared<TokenizerParts>();
  if (const auto normalizer = file.find("normalizer")) read_normalizer(*normalizer, parts->normalizer);
  read_model(file, *parts);

  std::vector<PostProcessor::Step> steps;
  const auto post_processor = file.find("post_processor");
  if (post_processor) read_post_processor(*post_processor, steps);
  const PostProcessor whole(steps, std::nullopt);
  const std::size_t added = whole.added();
  const std::optional<Truncation> truncation = read_truncation(file, added);
  parts->post_processor = PostProcessor(std::move(steps), truncate ? truncation : std::nullopt);

  const auto normalize = [&](std::string_view text) {
    Normalized out;
    return parts->normalize(text, false, false, out) ? out.text : std::string(text);
  };
  parts->added = AddedTokens(read_added_tokens(file, *parts->model), normalize);
  return parts;
}

}  // namespace wick::text
