#include "text/normalizer_step.h"

#include "text/rewriter.h"

namespace wick::text {
namespace {

bool run(NormalForm form, std::string_view text, bool with_origins, Normalized& out) {
  return normalize(form, text, with_origins, out);
}

bool run(CharacterMap map, std::string_view text, bool with_origins, Normalized& out) {
  return normalize(map, text, with_origins, out);
}

bool run(const Precompiled& precompiled, std::string_view text, bool with_origins, Normalized& out) {
  return precompiled.normalize(text, with_origins, out);
}

bool run(const ReplaceStep& step, std::string_view text, bool with_origins, Normalized& out) {
  Rewriter writer(text, with_origins);
  std::size_t done = 0;
  bool found = false;
  step.regex.for_each(text, [&](std::size_t begin, std::size_t end) {
    writer.keep(done, begin);
    writer.insert(step.content, with_origins ? writer.ending_at(end) : Origin{0, 0});
    done = end;
    found = true;
  });
  if (!found) return false;
  writer.keep(done, text.size());
  out = writer.take();
  return true;
}

bool run(const StripStep& step, std::string_view text, bool with_origins, Normalized& out) {
  const Rewriter characters(text, false);
  const auto is_space = [&](Origin c) {
    std::size_t at = c.begin;
    return is_white_space(next_code_point(text, at));
  };
  std::size_t begin = 0;
  std::size_t end = text.size();
  while (step.left && begin < end && is_space(characters.starting_at(begin))) begin = characters.starting_at(begin).end;
  while (step.right && begin < end && is_space(characters.ending_at(end))) end = characters.ending_at(end).begin;
  if (begin == 0 && end == text.size()) return false;
  Rewriter writer(text, with_origins);
  writer.keep(begin, end);
  out = writer.take();
  return true;
}

bool run(const PrependStep& step, std::string_view text, bool with_origins, Normalized& out) {
  if (text.empty() || step.content.empty()) return false;
  Rewriter writer(text, with_origins);
  writer.insert(step.content, writer.starting_at(0));
  writer.keep(0, text.size());
  out = writer.take();
  return true;
}

}  // namespace

bool apply(const NormalizerStep& step, std::string_view text, bool with_origins, Normalized& out) {
  return std::visit([&](const auto& one) { return run(one, text, with_origins, out); }, step);
}

}  // namespace wick::text
