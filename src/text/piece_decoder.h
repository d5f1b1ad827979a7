#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "text/normalizer_step.h"
#include "wick/tokenizer.h"

namespace wick::text {

/// The way back from MetaspaceStep: its character becomes a space, or nothing in the first token if `drops_first`.
struct MarkStep {
  std::string mark;
  bool drops_first;
};

/// How the pieces of sentencepiece become text: the decoders of the format in the order in which files have them, each
/// part optional. Tokens are joined without anything between them.
struct PieceDecoder {
  using Step = std::variant<ReplaceStep, MarkStep>;

  std::vector<Step> steps;     // what happens to each token, in turn
  bool byte_fallback = false;  // tokens <0x00> to <0xFF> are bytes
  std::string strip;           // Strip after Fuse: a character of which up to `strip_count` vanish at the beginning
  std::size_t strip_count = 0;

  /// Appends what is known of the text once this token stands behind those before it: valid UTF-8.
  void append(std::string& out, std::string token, DecodeState& state) const;
  /// Appends what append() held back: bytes, which end here.
  void finish(std::string& out, DecodeState& state) const;

 private:
  void append_byte(std::string& out, char byte, DecodeState& state) const;
  void emit(std::string& out, std::string_view text, DecodeState& state) const;
};

}  // namespace wick::text
