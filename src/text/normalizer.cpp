#include "text/normalizer.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>

#include "text/unicode.h"

namespace wick::text {
namespace {

// A character and how many characters of the source it takes in the place of: 1 - (it takes 1), 0 for one that a
// decomposition added, more for one that was composed.
struct Piece {
  std::uint32_t code_point;
  std::uint32_t takes;
};

int combining_class(std::uint32_t c) {
  return static_cast<int>(utf8proc_get_property(static_cast<utf8proc_int32_t>(c))->combining_class);
}

bool is_hangul_syllable(std::uint32_t c) { return c >= 0xAC00 && c <= 0xD7A3; }
bool is_hangul_jamo(std::uint32_t c) { return c >= 0x1100 && c <= 0x11FF; }

// Whether `c` stays as it is and neither joins with nor moves past what stands before it, so that text may be cut in
// front of it. Errs towards no.
bool is_inert(NormalForm form, std::uint32_t c) {
  if (c < 0x80) return true;
  const bool composes = form == NormalForm::nfc || form == NormalForm::nfkc;
  if (c < 0x300 && form == NormalForm::nfc) return true;
  if (is_hangul_syllable(c)) return composes;
  if (is_hangul_jamo(c)) return false;
  const utf8proc_property_t* property = utf8proc_get_property(static_cast<utf8proc_int32_t>(c));
  constexpr utf8proc_uint16_t kNone = 0xFFFF;
  if (property->combining_class != 0 || property->decomp_seqindex != kNone) return false;
  return !composes || property->comb_index == kNone;
}

// The composition of two characters, 0 if there is none.
std::uint32_t compose(std::uint32_t a, std::uint32_t b) {
  std::array<utf8proc_int32_t, 3> pair{static_cast<utf8proc_int32_t>(a), static_cast<utf8proc_int32_t>(b), 0};
  const auto options = static_cast<utf8proc_option_t>(UTF8PROC_COMPOSE | UTF8PROC_STABLE);
  return utf8proc_normalize_utf32(pair.data(), 2, options) == 1 ? static_cast<std::uint32_t>(pair[0]) : 0;
}

void decompose(NormalForm form, std::string_view text, std::vector<Piece>& out) {
  int options = UTF8PROC_DECOMPOSE | UTF8PROC_STABLE;
  if (form == NormalForm::nfkc || form == NormalForm::nfkd) options |= UTF8PROC_COMPAT;
  std::array<utf8proc_int32_t, 32> parts{};  // the longest decomposition in Unicode has 18
  for (std::size_t i = 0; i < text.size();) {
    const std::uint32_t c = next_code_point(text, i);
    int boundary = 0;
    const utf8proc_ssize_t count = utf8proc_decompose_char(static_cast<utf8proc_int32_t>(c), parts.data(),
                                                           static_cast<utf8proc_ssize_t>(parts.size()),
                                                           static_cast<utf8proc_option_t>(options), &boundary);
    if (count <= 0 || count > static_cast<utf8proc_ssize_t>(parts.size())) {
      out.push_back({c, 1});
      continue;
    }
    for (std::size_t k = 0; k < static_cast<std::size_t>(count); ++k) {
      out.push_back({static_cast<std::uint32_t>(parts[k]), k == 0 ? 1U : 0U});
    }
  }
  for (auto run = out.begin(); run != out.end();) {
    const auto start = std::find_if(run, out.end(), [](const Piece& p) { return combining_class(p.code_point) != 0; });
    run = std::find_if(start, out.end(), [](const Piece& p) { return combining_class(p.code_point) == 0; });
    std::stable_sort(start, run, [](const Piece& a, const Piece& b) {
      return combining_class(a.code_point) < combining_class(b.code_point);
    });
  }
}

void recompose(std::vector<Piece>& pieces) {
  constexpr std::size_t kNone = static_cast<std::size_t>(-1);
  std::size_t starter = kNone;
  std::size_t written = 0;
  int last_class = -1;  // of the last character kept after the starter; -1: none
  for (const Piece piece : pieces) {
    const int its_class = combining_class(piece.code_point);
    if (starter != kNone && last_class < its_class) {
      if (const std::uint32_t joined = compose(pieces[starter].code_point, piece.code_point)) {
        pieces[starter] = {joined, pieces[starter].takes + piece.takes};
        continue;
      }
    }
    if (its_class == 0) {
      starter = written;
      last_class = -1;
    } else {
      last_class = its_class;
    }
    pieces[written++] = piece;
  }
  pieces.resize(written);
}

}  // namespace

bool normalize(NormalForm form, std::string_view text, bool with_origins, Normalized& out) {
  Normalized result;
  bool changed = false;
  std::size_t copied = 0;  // text[0, copied) is in result, if changed
  std::vector<Piece> pieces;
  std::size_t last_inert = 0;  // where the last inert character began

  const auto copy_until = [&](std::size_t end) {
    while (copied < end) {
      const std::size_t begin = copied;
      next_code_point(text, copied);
      result.text.append(text.substr(begin, copied - begin));
      if (with_origins) {
        const Origin origin{static_cast<std::uint32_t>(begin), static_cast<std::uint32_t>(copied)};
        result.origins.insert(result.origins.end(), copied - begin, origin);
      }
    }
  };

  for (std::size_t i = 0; i < text.size();) {
    const std::size_t here = i;
    if (is_inert(form, next_code_point(text, i))) {
      last_inert = here;
      continue;
    }
    // From the inert character before it up to the next one, everything may interact.
    const std::size_t begin = last_inert;
    std::size_t end = i;
    while (end < text.size()) {
      std::size_t next = end;
      if (is_inert(form, next_code_point(text, next))) break;
      end = next;
    }
    i = end;
    last_inert = end;
    pieces.clear();
    decompose(form, text.substr(begin, end - begin), pieces);
    if (form == NormalForm::nfc || form == NormalForm::nfkc) recompose(pieces);

    std::string region;
    for (const Piece& piece : pieces) append_utf8(region, piece.code_point);
    if (region == text.substr(begin, end - begin)) continue;
    changed = true;
    copy_until(begin);
    result.text += region;
    if (with_origins) {
      std::size_t source = begin;
      Origin last{0, 0};  // of the character of the source that was taken last
      for (const Piece& piece : pieces) {
        Origin origin = last;
        for (std::uint32_t k = 0; k < piece.takes; ++k) {
          last.begin = static_cast<std::uint32_t>(source);
          next_code_point(text, source);
          last.end = static_cast<std::uint32_t>(source);
          if (k == 0) origin = last;
        }
        std::string bytes;
        append_utf8(bytes, piece.code_point);
        result.origins.insert(result.origins.end(), bytes.size(), origin);
      }
    }
    copied = end;
  }
  if (!changed) return false;
  copy_until(text.size());
  out = std::move(result);
  return true;
}

}  // namespace wick::text
