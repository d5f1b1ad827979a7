#include "text/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <new>

#include "core/fail.h"

namespace wick::text {
namespace {

template <auto free_function>
struct Free {
  template <class T>
  void operator()(T* pointer) const {
    free_function(pointer);
  }
};
using MatchData = std::unique_ptr<pcre2_match_data, Free<pcre2_match_data_free>>;
using MatchContext = std::unique_ptr<pcre2_match_context, Free<pcre2_match_context_free>>;
using CompileContext = std::unique_ptr<pcre2_compile_context, Free<pcre2_compile_context_free>>;
using JitStack = std::unique_ptr<pcre2_jit_stack, Free<pcre2_jit_stack_free>>;
using PcreCode = std::unique_ptr<pcre2_code, Free<pcre2_code_free>>;

std::string message_of(int error) {
  std::array<PCRE2_UCHAR, 256> buffer{};
  pcre2_get_error_message(error, buffer.data(), buffer.size());
  return reinterpret_cast<const char*>(buffer.data());
}

// What a thread needs to run any pattern.
struct Scratch {
  MatchData data{pcre2_match_data_create(1, nullptr)};
  MatchContext context{pcre2_match_context_create(nullptr)};
  JitStack stack{pcre2_jit_stack_create(32 << 10, 4 << 20, nullptr)};

  Scratch() {
    if (!data || !context) throw std::bad_alloc();
    if (stack) pcre2_jit_stack_assign(context.get(), nullptr, stack.get());
  }
};

}  // namespace

struct Regex::Code {
  PcreCode pcre;
  std::string pattern;
  std::string name;
};

Regex::Regex(std::string_view pattern, const std::string& name)
    : Regex(translate_regex(pattern, name), pattern, name) {}

Regex Regex::literal(std::string_view text, const std::string& name) {
  std::string pattern;
  for (const char c : text) {
    // A backslash before an ASCII character that is no letter or digit is always that character.
    const auto byte = static_cast<unsigned char>(c);
    const bool plain = byte >= 0x80 || (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    if (byte == 0) {
      pattern += "\\x00";
      continue;
    }
    if (!plain) pattern += '\\';
    pattern += c;
  }
  return {std::move(pattern), text, name};
}

Regex::Regex(std::string translated, std::string_view original, const std::string& name) {
  CompileContext context{pcre2_compile_context_create(nullptr)};
  if (!context) throw std::bad_alloc();
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  int error = 0;
  PCRE2_SIZE where = 0;
  PcreCode pcre{pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                              PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &error, &where,
                              context.get())};
  if (!pcre) {
    if (error == PCRE2_ERROR_UNKNOWN_UNICODE_PROPERTY) {
      fail(ErrorCode::unsupported, "{}: the regular expression \"{}\" names a property that is not supported", name,
           original);
    }
    fail(ErrorCode::format, "{}: the regular expression \"{}\" is wrong: {}", name, original, message_of(error));
  }
  // Without JIT (not built in, or no executable memory) matching is slower and otherwise the same.
  pcre2_jit_compile(pcre.get(), PCRE2_JIT_COMPLETE);
  code_ = std::make_shared<const Code>(Code{std::move(pcre), std::string(original), name});
}

Regex::Match Regex::find(std::string_view subject, std::size_t from) const {
  thread_local Scratch scratch;
  // In proportion to the text, so that a long run of spaces is no error and a pattern that explodes still is.
  const std::uint64_t limit = 10'000'000 + 100 * static_cast<std::uint64_t>(subject.size());
  pcre2_set_match_limit(scratch.context.get(), static_cast<std::uint32_t>(std::min<std::uint64_t>(
                                                   limit, std::numeric_limits<std::uint32_t>::max())));
  const auto run = [&](std::uint32_t options) {
    return pcre2_match(code_->pcre.get(), reinterpret_cast<PCRE2_SPTR>(subject.data()), subject.size(), from, options,
                       scratch.data.get(), scratch.context.get());
  };
  int result = run(PCRE2_NO_UTF_CHECK);
  if (result == PCRE2_ERROR_JIT_STACKLIMIT) result = run(PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT);
  if (result == PCRE2_ERROR_NOMATCH) return {kNoMatch, kNoMatch};
  if (result == PCRE2_ERROR_NOMEMORY) throw std::bad_alloc();
  if (result < 0) {
    fail(ErrorCode::invalid_argument, "{}: the regular expression \"{}\" cannot be run on a text of {} bytes: {}",
         code_->name, code_->pattern, subject.size(), message_of(result));
  }
  const PCRE2_SIZE* range = pcre2_get_ovector_pointer(scratch.data.get());
  return {range[0], range[1]};
}

std::size_t Regex::after_character(std::string_view subject, std::size_t from) {
  ++from;
  while (from < subject.size() && (static_cast<unsigned char>(subject[from]) & 0xC0U) == 0x80U) ++from;
  return from;
}

}  // namespace wick::text
