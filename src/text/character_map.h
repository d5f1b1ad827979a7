#pragma once

#include <string_view>

#include "text/normalizer.h"

namespace wick::text {

/// What normalizers do to one character at a time. BertNormalizer is a sequence of these and NFD.
enum class CharacterMap {
  clean,          ///< drops U+FFFD, control, format and private characters; any white space becomes a space
  space_cjk,      ///< a space on either side of every CJK ideograph
  strip_accents,  ///< drops nonspacing marks, as BertNormalizer does
  strip_marks,    ///< drops all marks: the normalizer StripAccents
  lowercase,      ///< Unicode's lower case, without regard to what stands beside a character
};

/// Maps every character of valid UTF-8. Returns false, and leaves `out` alone, when that changes nothing. `out.origins`
/// is filled if `with_origins`, relative to `text`: everything comes from the character it was made of.
bool normalize(CharacterMap map, std::string_view text, bool with_origins, Normalized& out);

}  // namespace wick::text
