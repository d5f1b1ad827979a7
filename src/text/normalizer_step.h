#pragma once

#include <string>
#include <string_view>
#include <variant>

#include "text/character_map.h"
#include "text/normalizer.h"
#include "text/precompiled.h"
#include "text/regex.h"

namespace wick::text {

/// Puts `content` in the place of every match.
struct ReplaceStep {
  Regex regex;
  std::string content;
};

/// Takes white space off the ends.
struct StripStep {
  bool left;
  bool right;
};

/// Puts `content` before a text that is not empty.
struct PrependStep {
  std::string content;
};

using NormalizerStep = std::variant<NormalForm, CharacterMap, Precompiled, ReplaceStep, StripStep, PrependStep>;

/// Runs a step over valid UTF-8. Returns false, and leaves `out` alone, when nothing changes. Origins as in
/// normalize().
bool apply(const NormalizerStep& step, std::string_view text, bool with_origins, Normalized& out);

}  // namespace wick::text
