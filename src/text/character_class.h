#pragma once

#include <cstdint>

namespace wick::text {

/// The classes of characters that BERT's normalizer and pre-tokenizer go by. A vocabulary was made with the tables of
/// the library that defines the format, so these are the same: punctuation, nonspacing marks and the category Other are
/// those of Unicode 8, marks those of Unicode 9, whatever the version of the other tables here.

/// Category P, and every ASCII character that is printed and is no letter, digit or space.
bool is_punctuation(std::uint32_t code_point);
/// Category Mn.
bool is_nonspacing_mark(std::uint32_t code_point);
/// Category M.
bool is_mark(std::uint32_t code_point);
/// Categories Cc, Cf and Co (control, format, private use).
bool is_other(std::uint32_t code_point);
/// The blocks that BERT calls Chinese: the ideographs of CJK, neither kana nor Hangul.
bool is_cjk_ideograph(std::uint32_t code_point);

}  // namespace wick::text
