#pragma once

#include <memory>

#include "text/json_value.h"
#include "text/model.h"

namespace wick::text {

/// What byte pair encoding begins with: bytes, with a vocabulary in the byte-level alphabet, or characters.
enum class BpeUnit { byte, character };

/// Reads the section `model` of a tokenizer.json whose type is BPE.
std::unique_ptr<const Model> read_bpe(const JsonValue& model, BpeUnit unit);

}  // namespace wick::text
