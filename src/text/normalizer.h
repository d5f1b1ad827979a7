#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace wick::text {

/// The bytes [begin, end) of the text as it was given from which a byte of changed text comes.
struct Origin {
  std::uint32_t begin;
  std::uint32_t end;
};

/// A text on its way through the tokenizer.
struct Normalized {
  std::string text;
  /// One per byte of `text`, when `text` differs from what was given and offsets are wanted; else empty.
  std::vector<Origin> origins;
};

enum class NormalForm { nfc, nfd, nfkc, nfkd };

/// Brings valid UTF-8 into a Unicode normal form. Returns false, and leaves `out` alone, when `text` is already in it.
/// `out.origins` is filled if `with_origins`, relative to `text`; a composed character comes from the first one that
/// went into it.
bool normalize(NormalForm form, std::string_view text, bool with_origins, Normalized& out);

}  // namespace wick::text
