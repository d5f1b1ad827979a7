#include "text/post_processor.h"

#include <algorithm>

#include "core/fail.h"

namespace wick::text {
namespace {

void trim(const TrimStep& step, Draft& draft) {
  for (std::size_t i = 0; i < draft.offsets.size(); ++i) {
    auto& [begin, end] = draft.offsets[i];
    std::size_t leading = draft.margins[i].leading;
    const std::size_t trailing = draft.margins[i].trailing;
    if (leading > 0) {
      // One space at the very start may be the one that the pre-tokenizer put there.
      if ((i == 0 || begin == 0) && step.add_prefix_space && leading == 1) leading = 0;
      begin = std::min(begin + leading, end);
    }
    if (trailing > 0 && end >= trailing) end = std::max(end - trailing, begin);
  }
}

template <class T>
std::vector<T> around(const TemplateStep& step, const std::vector<T>& sequence, auto&& of_token) {
  std::vector<T> out;
  out.reserve(sequence.size() + step.added());
  for (const std::optional<TokenId>& piece : step.pieces) {
    if (piece) {
      out.push_back(of_token(*piece));
    } else {
      out.insert(out.end(), sequence.begin(), sequence.end());
    }
  }
  return out;
}

template <class T>
void cut(std::vector<T>& values, std::size_t length, bool keep_end) {
  if (values.size() <= length) return;
  if (keep_end) values.erase(values.begin(), values.end() - static_cast<std::ptrdiff_t>(length));
  values.resize(length);
}

}  // namespace

std::size_t TemplateStep::added() const {
  return static_cast<std::size_t>(
      std::count_if(pieces.begin(), pieces.end(), [](const auto& p) { return p.has_value(); }));
}

bool PostProcessor::trims() const {
  return std::any_of(steps_.begin(), steps_.end(), [](const Step& s) { return std::holds_alternative<TrimStep>(s); });
}

std::size_t PostProcessor::added() const {
  std::size_t count = 0;
  for (const Step& step : steps_) {
    if (const auto* templ = std::get_if<TemplateStep>(&step)) count += templ->added();
  }
  return count;
}

void PostProcessor::run(Draft& draft, bool with_offsets, bool add_special_tokens,
                        std::optional<std::size_t> max_tokens) const {
  std::optional<Truncation> truncation = truncation_;
  const std::size_t around_it = add_special_tokens ? added() : 0;
  if (max_tokens) {
    if (*max_tokens < around_it) {
      fail(ErrorCode::invalid_argument, "cannot cut an encoding to {} tokens, the template adds {}", *max_tokens,
           around_it);
    }
    truncation = Truncation{*max_tokens, truncation && truncation->keep_end};
  }
  if (truncation) {
    const std::size_t length = truncation->length - around_it;
    cut(draft.ids, length, truncation->keep_end);
    cut(draft.offsets, length, truncation->keep_end);
    cut(draft.margins, length, truncation->keep_end);
  }
  for (const Step& step : steps_) {
    if (const auto* trimming = std::get_if<TrimStep>(&step)) {
      if (with_offsets) trim(*trimming, draft);
    } else if (add_special_tokens) {
      const auto& templ = std::get<TemplateStep>(step);
      draft.ids = around(templ, draft.ids, [](TokenId id) { return id; });
      if (!with_offsets) continue;
      draft.offsets = around(templ, draft.offsets, [](TokenId) { return std::pair<std::size_t, std::size_t>{0, 0}; });
      if (trims()) draft.margins = around(templ, draft.margins, [](TokenId) { return Margins{0, 0}; });
    }
  }
}

}  // namespace wick::text
