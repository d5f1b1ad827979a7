#pragma once

#include <optional>

#include "text/json_value.h"
#include "text/piece_decoder.h"
#include "text/word_decoder.h"

namespace wick::text {

/// Reads the section `decoder` of a tokenizer.json. Nothing if it is ByteLevel, which BPE over bytes needs.
std::optional<PieceDecoder> read_decoder(const JsonValue& value);

/// Reads the decoder of WordPiece; without one every token is a word.
WordDecoder read_word_decoder(const std::optional<JsonValue>& value);

}  // namespace wick::text
