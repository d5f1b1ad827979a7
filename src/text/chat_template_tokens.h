#pragma once

#include <algorithm>
#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/chat_template_lexer.h"

namespace wick::text::jinja {

/// The tokens of a template, one after another, and the errors of whoever reads them.
class TokenReader {
 protected:
  using Kind = Token::Kind;

  explicit TokenReader(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  /// Lives as long as a level of the parser's recursion; Error(format) where there are too many.
  class Nested {
   public:
    explicit Nested(TokenReader& reader);
    ~Nested() { --depth_; }
    Nested(const Nested&) = delete;
    Nested& operator=(const Nested&) = delete;

   private:
    std::size_t& depth_;
  };

  const Token& peek(std::size_t ahead = 0) const { return tokens_[std::min(at_ + ahead, tokens_.size() - 1)]; }
  const Token& next() { return at_ + 1 < tokens_.size() ? tokens_[at_++] : tokens_.back(); }
  bool is_op(std::string_view op, std::size_t ahead = 0) const {
    return peek(ahead).kind == Kind::op && peek(ahead).text == op;
  }
  bool is_name(std::string_view name, std::size_t ahead = 0) const {
    return peek(ahead).kind == Kind::name && peek(ahead).text == name;
  }
  bool take_op(std::string_view op) { return is_op(op) && (next(), true); }
  bool take_name(std::string_view name) { return is_name(name) && (next(), true); }
  void expect_op(std::string_view op);
  std::string expect_name();

  /// The next token, for an error message.
  std::string describe() const;
  [[noreturn]] void error(const std::string& what) const;
  [[noreturn]] void unsupported(const std::string& what) const;

 private:
  std::vector<Token> tokens_;
  std::size_t at_ = 0;
  std::size_t depth_ = 0;
};

}  // namespace wick::text::jinja
