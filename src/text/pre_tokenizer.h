#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "text/normalizer.h"
#include "text/regex.h"
#include "text/unicode.h"

namespace wick::text {

/// A stretch of text with the way back to the text as it was given.
struct Stretch {
  std::string_view text;
  const Origin* origins = nullptr;  // of each byte of `text`; if null, byte i comes from byte base + i as it is
  std::uint32_t base = 0;           // added to what `origins` say, too

  /// Where it begins in the text as it was given.
  std::uint32_t begin() const { return base + (origins != nullptr && !text.empty() ? origins->begin : 0); }
  Stretch part(std::size_t begin, std::size_t end) const {
    if (origins != nullptr) return {text.substr(begin, end - begin), origins + begin, base};
    return {text.substr(begin, end - begin), nullptr, base + static_cast<std::uint32_t>(begin)};
  }
};

/// What becomes of a delimiter that a Split finds. The names are the format's.
enum class SplitBehavior { removed, isolated, merged_with_previous, merged_with_next, contiguous };

/// Cuts text at the matches of an expression; `invert`: at what lies between them.
struct SplitStep {
  Regex regex;
  SplitBehavior behavior;
  bool invert;
};

/// Puts a space before text that does not start with one.
struct PrefixSpaceStep {};

/// Cuts text into words at white space, which vanishes. `punctuation`: also before and after every character of that
/// kind (see character_class.h), as BertPreTokenizer does.
struct WordsStep {
  bool punctuation;
};

/// When Metaspace puts a space before text that does not start with one; `first`: only at the start of the text as it
/// was given. The names are the format's.
enum class PrependScheme { always, first, never };

/// Writes spaces as another character, as sentencepiece does, and cuts before each of them if `split`.
struct MetaspaceStep {
  std::string replacement;
  PrependScheme prepend;
  bool split;
};

/// The steps that cut text into the pieces a model sees.
class PreTokenizer {
 public:
  using Step = std::variant<SplitStep, PrefixSpaceStep, WordsStep, MetaspaceStep>;

  struct Options {
    bool with_origins = false;
    bool continues = false;  // the text as it was given stands behind another: no space is put before it
  };

  explicit PreTokenizer(std::vector<Step> steps = {}) : steps_(std::move(steps)) {}

  /// Whether the pieces depend on where the text comes from, also if it does not continue another.
  bool needs_origins() const;
  /// Calls use(const Stretch&) with each piece, in order. Pieces are not empty.
  template <class Use>
  void run(const Stretch& text, const Options& options, Use&& use) const {
    run_from(0, text, options, use);
  }

 private:
  struct Cut {
    std::size_t begin;
    std::size_t end;
    bool matched;
  };
  static std::vector<Cut> cuts_of(const SplitStep& split, std::string_view text);

  template <class Use>
  void run_from(std::size_t index, const Stretch& text, const Options& options, Use& use) const {
    if (text.text.empty()) return;
    if (index == steps_.size()) return use(text);
    if (const auto* split = std::get_if<SplitStep>(&steps_[index])) {
      const auto next = [&](std::size_t begin, std::size_t end) {
        run_from(index + 1, text.part(begin, end), options, use);
      };
      if (split->behavior != SplitBehavior::isolated) {
        for (const Cut& cut : cuts_of(*split, text.text)) next(cut.begin, cut.end);
        return;
      }
      std::size_t done = 0;
      split->regex.for_each(text.text, [&](std::size_t begin, std::size_t end) {
        next(done, begin);
        next(begin, end);
        done = end;
      });
      next(done, text.text.size());
    } else if (const auto* words = std::get_if<WordsStep>(&steps_[index])) {
      for (std::size_t at = 0; at < text.text.size();) {
        const auto [begin, end] = next_word(*words, text.text, at);
        run_from(index + 1, text.part(begin, end), options, use);
        at = end;
      }
    } else if (const auto* metaspace = std::get_if<MetaspaceStep>(&steps_[index])) {
      const Normalized marked = with_marks(*metaspace, text, options);
      const Stretch whole{marked.text, options.with_origins ? marked.origins.data() : nullptr, text.base};
      if (!metaspace->split) return run_from(index + 1, whole, options, use);
      for (std::size_t begin = 0; begin < marked.text.size();) {
        const std::size_t end = std::min(marked.text.find(metaspace->replacement, begin + 1), marked.text.size());
        run_from(index + 1, whole.part(begin, end), options, use);
        begin = end;
      }
    } else {
      if (text.text.front() == ' ' || (options.continues && text.begin() == 0)) {
        return run_from(index + 1, text, options, use);
      }
      const Normalized spaced = with_prefix_space(text, options.with_origins);
      run_from(index + 1, {spaced.text, options.with_origins ? spaced.origins.data() : nullptr, text.base}, options,
               use);
    }
  }
  // The first word in text[from, ...); an empty one at the end of the text if there is none.
  static std::pair<std::size_t, std::size_t> next_word(const WordsStep& step, std::string_view text, std::size_t from);
  static Normalized with_marks(const MetaspaceStep& step, const Stretch& text, const Options& options);
  static Normalized with_prefix_space(const Stretch& text, bool with_origins);

  std::vector<Step> steps_;
};

}  // namespace wick::text
