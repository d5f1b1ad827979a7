#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "text/added_tokens.h"
#include "text/model.h"
#include "text/normalizer_step.h"
#include "text/piece_decoder.h"
#include "text/post_processor.h"
#include "text/pre_tokenizer.h"
#include "text/word_decoder.h"
#include "wick/tokenizer.h"

namespace wick::text {

/// Where the white space at the ends of a token is looked for, which a post-processor may take out of the offsets.
enum class MarginsOf {
  bytes,     ///< what it covers, as bytes
  piece,     ///< what it covers, as text
  spelling,  ///< how the file spells it
};

/// The parts that a tokenizer.json is made of, and the way of a text through them.
struct TokenizerParts {
  std::vector<NormalizerStep> normalizer;  // applied in turn
  PreTokenizer pre_tokenizer;
  std::unique_ptr<const Model> model;
  PostProcessor post_processor{{}, std::nullopt};
  AddedTokens added;
  /// How tokens become text; without either, their bytes in the byte-level alphabet are joined.
  std::optional<WordDecoder> word_decoder;
  std::optional<PieceDecoder> piece_decoder;
  MarginsOf margins_of = MarginsOf::bytes;

  /// Fills a draft. `with_offsets`: also offsets and, where the post-processor needs them, margins. `continues`: no
  /// space is put before the text.
  Draft encode(std::string_view text, bool with_offsets, bool continues) const;
  /// Appends the bytes of a token behind those that `state` has seen, which need not be whole characters.
  void append_bytes(std::string& out, TokenId id, bool skip_special_tokens, DecodeState& state) const;
  /// Appends what is left when no token follows.
  void finish(std::string& out, DecodeState& state) const;
  /// Runs the normalizer over `text`, without what Prepend does if it `continues` another; false if nothing changes.
  bool normalize(std::string_view text, bool with_origins, bool continues, Normalized& out) const;
};

/// Builds the parts from the text of a tokenizer.json.
std::shared_ptr<const TokenizerParts> parse_tokenizer(const std::string& json, const std::string& name, bool truncate);

}  // namespace wick::text
