#include "text/pre_tokenizer.h"

#include <algorithm>

#include "text/character_class.h"
#include "text/rewriter.h"
#include "text/unicode.h"

namespace wick::text {

std::vector<PreTokenizer::Cut> PreTokenizer::cuts_of(const SplitStep& split, std::string_view text) {
  std::vector<Cut> found;
  std::size_t done = 0;
  split.regex.for_each(text, [&](std::size_t begin, std::size_t end) {
    if (done != begin) found.push_back({done, begin, split.invert});
    found.push_back({begin, end, !split.invert});
    done = end;
  });
  if (done != text.size()) found.push_back({done, text.size(), split.invert});

  std::vector<Cut> cuts;
  bool previous = false;
  switch (split.behavior) {
    case SplitBehavior::isolated:
      return found;
    case SplitBehavior::removed:
      std::erase_if(found, [](const Cut& cut) { return cut.matched; });
      return found;
    case SplitBehavior::contiguous:
      for (const Cut& cut : found) {
        if (cut.matched == previous && !cuts.empty()) {
          cuts.back().end = cut.end;
        } else {
          cuts.push_back(cut);
        }
        previous = cut.matched;
      }
      return cuts;
    case SplitBehavior::merged_with_previous:
      for (const Cut& cut : found) {
        if (cut.matched && !previous && !cuts.empty()) {
          cuts.back().end = cut.end;
        } else {
          cuts.push_back(cut);
        }
        previous = cut.matched;
      }
      return cuts;
    case SplitBehavior::merged_with_next:
      for (auto cut = found.rbegin(); cut != found.rend(); ++cut) {
        if (cut->matched && !previous && !cuts.empty()) {
          cuts.back().begin = cut->begin;
        } else {
          cuts.push_back(*cut);
        }
        previous = cut->matched;
      }
      std::reverse(cuts.begin(), cuts.end());
      return cuts;
  }
  return found;
}

std::pair<std::size_t, std::size_t> PreTokenizer::next_word(const WordsStep& step, std::string_view text,
                                                            std::size_t from) {
  std::size_t begin = text.size();  // of the word, once there is one
  for (std::size_t i = from; i < text.size();) {
    const std::size_t here = i;
    const std::uint32_t c = next_code_point(text, i);
    if (is_white_space(c)) {
      if (begin < here) return {begin, here};
    } else if (step.punctuation && is_punctuation(c)) {
      return begin < here ? std::pair{begin, here} : std::pair{here, i};
    } else if (begin == text.size()) {
      begin = here;
    }
  }
  return {begin, text.size()};
}

bool PreTokenizer::needs_origins() const {
  return std::any_of(steps_.begin(), steps_.end(), [](const Step& step) {
    const auto* metaspace = std::get_if<MetaspaceStep>(&step);
    return metaspace != nullptr && metaspace->prepend == PrependScheme::first;
  });
}

Normalized PreTokenizer::with_marks(const MetaspaceStep& step, const Stretch& text, const Options& options) {
  Rewriter writer(text.text, options.with_origins);
  const bool at_start = text.begin() == 0;
  const bool may =
      step.prepend != PrependScheme::never && (at_start ? !options.continues : step.prepend == PrependScheme::always);
  if (may && !text.text.starts_with(' ') && !text.text.starts_with(step.replacement)) {
    writer.insert(step.replacement, writer.starting_at(0));
  }
  std::size_t done = 0;
  for (std::size_t at = 0; (at = text.text.find(' ', done)) != std::string_view::npos; done = at + 1) {
    writer.keep(done, at);
    writer.insert(step.replacement, writer.starting_at(at));
  }
  writer.keep(done, text.text.size());
  Normalized out = writer.take();
  if (text.origins != nullptr) trace_back(out.origins, text.origins);
  return out;
}

// The space comes from the character that it stands before.
Normalized PreTokenizer::with_prefix_space(const Stretch& text, bool with_origins) {
  Normalized out;
  out.text.reserve(text.text.size() + 1);
  out.text += ' ';
  out.text += text.text;
  if (!with_origins) return out;
  out.origins.reserve(out.text.size());
  for (std::size_t i = 0; i < text.text.size();) {
    const std::size_t begin = i;
    next_code_point(text.text, i);
    for (std::size_t byte = begin; byte < i; ++byte) {
      // Origins stay relative to text.base.
      out.origins.push_back(text.origins != nullptr
                                ? text.origins[byte]
                                : Origin{static_cast<std::uint32_t>(begin), static_cast<std::uint32_t>(i)});
    }
  }
  out.origins.insert(out.origins.begin(), out.origins.front());
  return out;
}

}  // namespace wick::text
