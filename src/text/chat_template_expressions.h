#pragma once

#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "text/chat_template_syntax.h"
#include "text/chat_template_tokens.h"

namespace wick::text::jinja {

/// Parses expressions by recursive descent.
class ExpressionParser : protected TokenReader {
 protected:
  explicit ExpressionParser(std::vector<Token> tokens) : TokenReader(std::move(tokens)) {}

  ExpressionPtr parse_expression();
  /// An expression, or several with commas between: a tuple. `conditional`: whether "a if b" belongs to it;
  /// `parentheses`: whether it stands in them, where it may be empty.
  ExpressionPtr parse_tuple(bool conditional = true, bool parentheses = false);
  /// A filter behind its "|".
  ExpressionPtr parse_filter(ExpressionPtr input);
  /// The filters, tests and calls behind a value.
  ExpressionPtr parse_filters(ExpressionPtr value);

 private:
  // From the loosest operator to the tightest.
  ExpressionPtr parse_or();
  ExpressionPtr parse_and();
  ExpressionPtr parse_not();
  ExpressionPtr parse_comparison();
  ExpressionPtr parse_sum();
  ExpressionPtr parse_concat();
  ExpressionPtr parse_product();
  ExpressionPtr parse_power();
  ExpressionPtr parse_unary(bool with_filters);
  ExpressionPtr parse_primary();
  ExpressionPtr parse_number();
  ExpressionPtr parse_dict(std::size_t line);
  // What stands behind a value.
  ExpressionPtr parse_postfix(ExpressionPtr value);
  ExpressionPtr parse_call(ExpressionPtr callee);
  ExpressionPtr parse_subscript(ExpressionPtr object, std::size_t line);
  ExpressionPtr parse_test(ExpressionPtr input);
  CallArguments parse_arguments();
  std::string parse_dotted_name();

  template <class Operand>
  ExpressionPtr parse_logical(std::string_view name, Operand&& operand);
  template <class Operand>
  ExpressionPtr parse_arithmetic(std::initializer_list<std::string_view> ops, Operand&& operand);
  template <class Node>
  ExpressionPtr make(std::size_t line, Node node, std::size_t below) const;
  bool ends_tuple() const;
};

}  // namespace wick::text::jinja
