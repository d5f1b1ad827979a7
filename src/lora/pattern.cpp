#include "lora/pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <array>
#include <cstdint>
#include <new>

#include "io/quote.h"

namespace wick::lora {
namespace {

constexpr std::size_t kMaxLength = 32768;
constexpr std::uint32_t kMatchLimit = 100'000;  // honest patterns on names of this length take some dozens
constexpr std::uint32_t kHeapLimitKiB = 20'000;

std::string message_of(int error) {
  std::array<PCRE2_UCHAR, 160> buffer{};
  const int length = pcre2_get_error_message(error, buffer.data(), buffer.size());
  return length < 0 ? "error " + std::to_string(error) : reinterpret_cast<const char*>(buffer.data());
}

// Python reads {,n} as {0,n}; PCRE2 before 10.43 takes it literally.
bool has_open_repeat(std::string_view regex) {
  for (auto at = regex.find("{,"); at != std::string_view::npos; at = regex.find("{,", at + 1)) {
    const auto end = regex.find_first_not_of("0123456789", at + 2);
    if (end != std::string_view::npos && regex[end] == '}') return true;
  }
  return false;
}

struct MatchData {
  explicit MatchData(const pcre2_code* code)
      : data(pcre2_match_data_create_from_pattern(code, nullptr)), context(pcre2_match_context_create(nullptr)) {
    if (data == nullptr || context == nullptr) {
      release();
      throw std::bad_alloc();
    }
    pcre2_set_match_limit(context, kMatchLimit);
    pcre2_set_depth_limit(context, kMatchLimit);
    pcre2_set_heap_limit(context, kHeapLimitKiB);
  }
  MatchData(const MatchData&) = delete;
  MatchData& operator=(const MatchData&) = delete;
  ~MatchData() { release(); }

  void release() {
    pcre2_match_data_free(data);
    pcre2_match_context_free(context);
  }

  pcre2_match_data* data;
  pcre2_match_context* context;
};

}  // namespace

Pattern::Pattern(const Origin& origin, std::string_view option, std::string_view shown, std::string_view regex,
                 Mode mode)
    : origin_(origin), shown_(fmt::format("{} {}", option, quote(shown))) {
  if (regex.size() > kMaxLength) {
    origin_.refuse("{} is a regular expression of {} bytes, expected at most {}", shown_, regex.size(), kMaxLength);
  }
  if (has_open_repeat(regex)) origin_.refuse("{}: write {{0,n}} for {{,n}} in a regular expression", shown_);

  std::uint32_t options = PCRE2_UTF | PCRE2_UCP | PCRE2_ANCHORED | PCRE2_NEVER_BACKSLASH_C;
  if (mode == Mode::full) options |= PCRE2_ENDANCHORED;
  int error = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* code =
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(regex.data()), regex.size(), options, &error, &offset, nullptr);
  if (code == nullptr) origin_.refuse("{} is no regular expression: {}", shown_, message_of(error));
  code_ =
      std::shared_ptr<const pcre2_code>(code, [](const pcre2_code* c) { pcre2_code_free(const_cast<pcre2_code*>(c)); });
}

template <class Use>
bool Pattern::match(std::string_view name, Use&& use) const {
  const MatchData match(code_.get());
  const int result =
      pcre2_match(code_.get(), reinterpret_cast<PCRE2_SPTR>(name.data()), name.size(), 0, 0, match.data, match.context);
  if (result == PCRE2_ERROR_NOMATCH) return false;
  if (result == PCRE2_ERROR_MATCHLIMIT || result == PCRE2_ERROR_DEPTHLIMIT || result == PCRE2_ERROR_HEAPLIMIT) {
    origin_.refuse("{} takes too many steps to match against {}", shown_, quote(name));
  }
  if (result < 0) origin_.refuse("{} cannot be matched against {}: {}", shown_, quote(name), message_of(result));
  use(match.data);
  return true;
}

bool Pattern::matches(std::string_view name) const {
  return match(name, [](pcre2_match_data*) {});
}

std::optional<std::string> Pattern::group(std::string_view name, const char* group) const {
  std::string text;
  const bool matched = match(name, [&](pcre2_match_data* data) {
    const int number = pcre2_substring_number_from_name(code_.get(), reinterpret_cast<PCRE2_SPTR>(group));
    const PCRE2_SIZE* ends = pcre2_get_ovector_pointer(data);
    if (number <= 0 || static_cast<std::uint32_t>(number) >= pcre2_get_ovector_count(data)) return;
    const PCRE2_SIZE begin = ends[2 * number];
    const PCRE2_SIZE end = ends[2 * number + 1];
    if (begin != PCRE2_UNSET && begin <= end) text = name.substr(begin, end - begin);
  });
  if (!matched) return std::nullopt;
  return text;
}

}  // namespace wick::lora
