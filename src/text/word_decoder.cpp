#include "text/word_decoder.h"

#include <array>
#include <string_view>
#include <utility>

namespace wick::text {
namespace {

using Replacement = std::pair<std::string_view, std::string_view>;

// In this order, each within one token and the space before it: so does the decoder WordPiece of the format.
constexpr std::array<Replacement, 11> kCleanup{{{" .", "."},
                                                {" ?", "?"},
                                                {" !", "!"},
                                                {" ,", ","},
                                                {" ' ", "'"},
                                                {" n't", "n't"},
                                                {" 'm", "'m"},
                                                {" do not", " don't"},
                                                {" 's", "'s"},
                                                {" 've", "'ve"},
                                                {" 're", "'re"}}};

void replace_all(std::string& text, const Replacement& replacement) {
  const auto& [from, to] = replacement;
  std::size_t found = text.find(from);
  if (found == std::string::npos) return;
  std::string out;
  std::size_t done = 0;
  for (; found != std::string::npos; found = text.find(from, done)) {
    out.append(text, done, found - done).append(to);
    done = found + from.size();
  }
  text = out.append(text, done);
}

}  // namespace

void WordDecoder::append(std::string& out, std::string token, bool first) const {
  if (!first) {
    if (prefix && token.starts_with(*prefix)) {
      token.erase(0, prefix->size());
    } else {
      token.insert(0, 1, ' ');
    }
  }
  if (cleanup) {
    for (const Replacement& replacement : kCleanup) replace_all(token, replacement);
  }
  out += token;
}

}  // namespace wick::text
