#pragma once

#include <string>

#include "text/json_value.h"
#include "text/normalizer_step.h"
#include "text/pre_tokenizer.h"
#include "text/regex.h"

namespace wick::text {

// Values that several sections of a tokenizer.json have.

/// {"String": ...} or {"Regex": ...}.
Regex read_pattern(const JsonValue& value);
/// A Replace, which is a normalizer and a decoder.
ReplaceStep read_replace(const JsonValue& value);
/// A string of one character.
std::string read_character(const JsonValue& value);
/// A Metaspace, which is a pre-tokenizer and a decoder.
MetaspaceStep read_metaspace(const JsonValue& value);

}  // namespace wick::text
