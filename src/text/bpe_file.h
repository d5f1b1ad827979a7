#pragma once

#include <memory>

#include "text/json_value.h"
#include "text/model.h"

namespace wick::text {

/// Reads the section `model` of a tokenizer.json whose type is BPE, with a vocabulary in the byte-level alphabet.
std::unique_ptr<const Model> read_bpe(const JsonValue& model);

}  // namespace wick::text
