#pragma once

#include <memory>

#include "text/json_value.h"
#include "text/model.h"

namespace wick::text {

/// Reads the "model" section of a tokenizer.json whose type is WordPiece.
std::unique_ptr<const Model> read_word_piece(const JsonValue& model);

}  // namespace wick::text
