#include "text/chat_template_tokens.h"

#include "core/fail.h"
#include "io/quote.h"

namespace wick::text::jinja {
namespace {

constexpr std::size_t kMaxDepth = 100;

}  // namespace

TokenReader::Nested::Nested(TokenReader& reader) : depth_(reader.depth_) {
  if (++depth_ > kMaxDepth) reader.error(fmt::format("nested deeper than {} levels", kMaxDepth));
}

void TokenReader::expect_op(std::string_view op) {
  if (!take_op(op)) error(fmt::format("{}, expected \"{}\"", describe(), op));
}

std::string TokenReader::expect_name() {
  if (peek().kind != Kind::name) error(describe() + ", expected a name");
  return next().text;
}

std::string TokenReader::describe() const {
  switch (peek().kind) {
    case Kind::text:
      return "text";
    case Kind::statement_begin:
      return "\"{%\"";
    case Kind::statement_end:
      return "\"%}\"";
    case Kind::output_begin:
      return "\"{{\"";
    case Kind::output_end:
      return "\"}}\"";
    case Kind::end:
      return "the end of the template";
    default:
      return quote(peek().text, 60);
  }
}

void TokenReader::error(const std::string& what) const { fail(ErrorCode::format, "line {}: {}", peek().line, what); }

void TokenReader::unsupported(const std::string& what) const {
  fail(ErrorCode::unsupported, "line {}: {} not supported in chat templates", peek().line, what);
}

}  // namespace wick::text::jinja
