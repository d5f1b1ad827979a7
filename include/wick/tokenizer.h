#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace wick {

namespace text {
struct TokenizerParts;

/// What decoding has to know of the tokens before.
struct DecodeState {
  bool streams = false;      // bytes that make a character are given at once
  bool first = true;         // no token stands before
  bool broken = false;       // the bytes at the end are no text
  std::string bytes{};       // at the end, not given yet
  std::size_t stripped = 0;  // characters that were taken off the beginning, or as many as may be
};
}  // namespace text

/// A row of the embedding table.
using TokenId = std::int32_t;

/// What Tokenizer::encode returns; all vectors have one entry per token.
struct Encoding {
  std::vector<TokenId> ids;
  /// The part [first, second) of the input that each token covers, in characters (Unicode code points) of the input as
  /// it was given, before any normalization. Tokens that a template added have (0, 0). Tokens that are parts of one
  /// character all cover that character.
  std::vector<std::pair<std::size_t, std::size_t>> offsets;
};

/// What Tokenizer::encode can be asked for.
struct EncodeOptions {
  bool add_special_tokens = true;              ///< the tokens that the file's template adds
  std::optional<std::size_t> max_tokens = {};  ///< cut to this length, template included, in place of the file's
  bool continues = false;  ///< the text stands behind another: the space that a file puts before a text is left out
};

struct TokenizerOptions {
  bool truncate =
      true;  ///< cut encodings as the file's truncation section says: `tokenizers` does, transformers does not
};

/// A tokenizer.json file (the format of the Hugging Face `tokenizers` library), ready to use.
///
/// Supported: the models BPE over bytes (GPT-2, Llama 3, Qwen 2 and 3) and over characters (sentencepiece's: Llama 2,
/// Mistral, Phi-3, Gemma), WordPiece (BERT) and Unigram (XLM-RoBERTa, multilingual E5, BGE-M3), with the normalizers
/// NFC, NFD, NFKC, NFKD, BertNormalizer, Lowercase, StripAccents, Precompiled, Replace, Strip, Prepend and Sequence;
/// the pre-tokenizers ByteLevel (BPE only), Split, Digits, Punctuation, BertPreTokenizer, Whitespace, WhitespaceSplit,
/// Metaspace and Sequence; the post-processors ByteLevel, TemplateProcessing, BertProcessing, RobertaProcessing and
/// Sequence; the decoders ByteLevel (BPE over bytes), WordPiece (its model), and for the others Replace, Metaspace,
/// ByteFallback, Fuse and, of a text's beginning, Strip, in this order; added tokens with every flag; and truncation.
/// Padding is ignored. Everything else is refused by name with Error(unsupported); a broken file is an Error(format).
///
/// Text is UTF-8. Bytes that are not are read as U+FFFD, one for each maximal broken sequence, so no input is an error.
/// Letters, numbers, normal forms and grapheme clusters are those of Unicode 14 and 15 (PCRE2 10.42, utf8proc 2.8):
/// characters that newer versions added may be cut differently from a reference with newer tables. Decoding is not
/// affected. BertNormalizer, StripAccents and BertPreTokenizer use the reference's own, older classes of characters,
/// but for the order of combining marks and for lower case. Const members may be called from several threads at once.
/// Copies share the vocabulary and are cheap.
class Tokenizer {
 public:
  /// Reads a tokenizer.json file. Error(io) when it cannot be read.
  static Tokenizer from_file(const std::filesystem::path& path, const TokenizerOptions& options = {});
  /// Reads the text of a tokenizer.json file; `name` is what error messages call it.
  static Tokenizer from_json(std::string_view json, const std::string& name, const TokenizerOptions& options = {});

  Tokenizer(const Tokenizer&);
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(const Tokenizer&);
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  /// Splits a text of at most 256 MiB into tokens, in time linear in its length up to a logarithm.
  /// `add_special_tokens` says whether the file's template adds its tokens (such as a beginning of sequence); special
  /// tokens spelled out in the text are always recognised. Error(invalid_argument) for a longer text, or when a regular
  /// expression of the file needs too many steps on it.
  Encoding encode(std::string_view text, bool add_special_tokens = true) const;
  /// Error(invalid_argument) also for max_tokens less than the template adds. The file's direction says which end is
  /// cut, the right one if it does not.
  Encoding encode(std::string_view text, const EncodeOptions& options) const;
  /// The ids of encode(), without the cost of offsets.
  std::vector<TokenId> encode_ids(std::string_view text, bool add_special_tokens = true) const;
  std::vector<TokenId> encode_ids(std::string_view text, const EncodeOptions& options) const;

  /// The text of the tokens, always valid UTF-8: bytes that do not form a character become U+FFFD. Ids that the
  /// vocabulary does not have (a model may have more rows than its tokenizer has tokens) stand for nothing.
  std::string decode(std::span<const TokenId> ids, bool skip_special_tokens = false) const;

  /// The id of a token as the file spells it ("\u0120the", "<|endoftext|>").
  std::optional<TokenId> token_to_id(std::string_view token) const;
  /// A token as the file spells it; nothing for an id that the vocabulary does not have.
  std::optional<std::string> id_to_token(TokenId id) const;
  /// Whether an id is an added token that is marked special.
  bool is_special(TokenId id) const;
  /// The number of tokens, added ones included.
  std::size_t vocab_size() const;
  /// The number of tokens to which the file's truncation section cuts every encoding, if it has one.
  std::optional<std::size_t> truncation_length() const;

 private:
  friend class DecodeStream;
  explicit Tokenizer(std::shared_ptr<const text::TokenizerParts> parts);
  std::shared_ptr<const text::TokenizerParts> parts_;
};

/// Decodes tokens as they are generated. The pieces that push() and finish() return, joined, are what
/// Tokenizer::decode() gives for all the tokens at once, and none of them ends inside a character. One thing differs:
/// where the decoder is ByteFallback and byte tokens in a row are not UTF-8, decode() makes each of them U+FFFD, push()
/// those that come after the characters it has already given.
class DecodeStream {
 public:
  explicit DecodeStream(const Tokenizer& tokenizer, bool skip_special_tokens = false);

  /// Takes the next token and returns the characters that it completes, often one word, sometimes none.
  std::string push(TokenId id);
  /// Takes tokens whose text is there already, such as a prompt: push() then gives what stands behind it.
  void follow(std::span<const TokenId> ids);
  /// Returns what is left: U+FFFD if the tokens ended inside a character, else nothing. The stream is then as new.
  std::string finish();

 private:
  Tokenizer tokenizer_;
  bool skip_special_tokens_;
  text::DecodeState state_;
  std::string pending_;  // the first bytes of a character that is not complete: at most 3
};

}  // namespace wick
