#include "text/character_map.h"

#include <utf8proc.h>

#include <array>

#include "text/character_class.h"
#include "text/unicode.h"

namespace wick::text {
namespace {

// What becomes of one character.
struct Mapped {
  std::array<std::uint32_t, 3> characters{};
  int count = 0;

  bool is(std::uint32_t c) const { return count == 1 && characters[0] == c; }
};

Mapped one(std::uint32_t c) { return {{c}, 1}; }
Mapped none() { return {}; }

Mapped clean(std::uint32_t c) {
  if (c == '\t' || c == '\n' || c == '\r') return one(' ');
  if (c == 0xFFFD || is_other(c)) return none();
  return one(is_white_space(c) ? ' ' : c);
}

Mapped space_cjk(std::uint32_t c) { return is_cjk_ideograph(c) ? Mapped{{' ', c, ' '}, 3} : one(c); }

Mapped lowercase(std::uint32_t c) {
  if (c < 0x80) return one(c >= 'A' && c <= 'Z' ? c + ('a' - 'A') : c);
  // The only character whose lower case is always two.
  if (c == 0x130) return {{'i', 0x307}, 2};
  return one(static_cast<std::uint32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c))));
}

// The end of the ASCII characters from `i` on that stay as they are: most of most texts, so not one call for each.
template <CharacterMap map>
std::size_t skip(std::string_view text, std::size_t i) {
  const auto stays = [](unsigned char c) {
    if (map == CharacterMap::clean) return c >= 0x20 && c < 0x7F;
    if (map == CharacterMap::lowercase) return c < 0x80 && (c < 'A' || c > 'Z');
    return c < 0x80;
  };
  while (i < text.size() && stays(static_cast<unsigned char>(text[i]))) ++i;
  return i;
}

template <CharacterMap map>
Mapped map_one(std::uint32_t c) {
  switch (map) {
    case CharacterMap::clean:
      return clean(c);
    case CharacterMap::space_cjk:
      return space_cjk(c);
    case CharacterMap::strip_accents:
      return is_nonspacing_mark(c) ? none() : one(c);
    case CharacterMap::strip_marks:
      return is_mark(c) ? none() : one(c);
    case CharacterMap::lowercase:
      return lowercase(c);
  }
}

template <CharacterMap map>
bool map_each(std::string_view text, bool with_origins, Normalized& out) {
  Normalized result;
  bool changed = false;
  std::size_t copied = 0;  // text[0, copied) is in result, if changed
  const auto origins = [&](std::size_t begin, std::size_t end, std::size_t count) {
    const Origin origin{static_cast<std::uint32_t>(begin), static_cast<std::uint32_t>(end)};
    result.origins.insert(result.origins.end(), count, origin);
  };
  const auto copy_until = [&](std::size_t end) {
    result.text.append(text.substr(copied, end - copied));
    while (with_origins && copied < end) {
      const std::size_t begin = copied;
      next_code_point(text, copied);
      origins(begin, copied, copied - begin);
    }
    copied = end;
  };
  for (std::size_t i = skip<map>(text, 0); i < text.size(); i = skip<map>(text, i)) {
    const std::size_t here = i;
    const std::uint32_t c = next_code_point(text, i);
    const Mapped mapped = map_one<map>(c);
    if (mapped.is(c)) continue;
    if (!changed) {
      changed = true;
      result.text.reserve(text.size() + 16);
      if (with_origins) result.origins.reserve(text.size() + 16);
    }
    copy_until(here);
    for (int k = 0; k < mapped.count; ++k) append_utf8(result.text, mapped.characters[static_cast<std::size_t>(k)]);
    if (with_origins) origins(here, i, result.text.size() - result.origins.size());
    copied = i;
  }
  if (!changed) return false;
  copy_until(text.size());
  out = std::move(result);
  return true;
}

}  // namespace

bool normalize(CharacterMap map, std::string_view text, bool with_origins, Normalized& out) {
  switch (map) {
    case CharacterMap::clean:
      return map_each<CharacterMap::clean>(text, with_origins, out);
    case CharacterMap::space_cjk:
      return map_each<CharacterMap::space_cjk>(text, with_origins, out);
    case CharacterMap::strip_accents:
      return map_each<CharacterMap::strip_accents>(text, with_origins, out);
    case CharacterMap::strip_marks:
      return map_each<CharacterMap::strip_marks>(text, with_origins, out);
    case CharacterMap::lowercase:
      return map_each<CharacterMap::lowercase>(text, with_origins, out);
  }
  return false;
}

}  // namespace wick::text
