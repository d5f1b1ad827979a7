#include "text/chat_template_expressions.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <memory>
#include <type_traits>
#include <utility>

#include "io/quote.h"

namespace wick::text::jinja {
namespace {

constexpr std::size_t kMaxTreeDepth = 200;  // longer chains of operators nest to the left

// The depth below a node: the deepest of its children.
std::size_t depth_of(const ExpressionPtr& child) { return child == nullptr ? 0 : child->depth; }
std::size_t depth_of(const Expressions& children) {
  std::size_t depth = 0;
  for (const ExpressionPtr& child : children) depth = std::max(depth, depth_of(child));
  return depth;
}
template <class A, class B>
std::size_t depth_of(const std::vector<std::pair<A, B>>& pairs) {
  std::size_t depth = 0;
  for (const auto& [first, second] : pairs) {
    depth = std::max(depth, depth_of(second));
    if constexpr (std::is_same_v<A, ExpressionPtr>) depth = std::max(depth, depth_of(first));
  }
  return depth;
}
std::size_t depth_of(const CallArguments& call) { return std::max(depth_of(call.positional), depth_of(call.keywords)); }

}  // namespace

template <class Node>
ExpressionPtr ExpressionParser::make(std::size_t line, Node node, std::size_t below) const {
  if (below >= kMaxTreeDepth) error(fmt::format("an expression nested deeper than {} levels", kMaxTreeDepth));
  return std::make_unique<const Expression>(Expression{line, below + 1, std::move(node)});
}

bool ExpressionParser::ends_tuple() const {
  return peek().kind == Kind::statement_end || peek().kind == Kind::output_end || is_op(")");
}

ExpressionPtr ExpressionParser::parse_tuple(bool conditional, bool parentheses) {
  const std::size_t line = peek().line;
  Expressions items;
  bool tuple = false;
  while (!ends_tuple()) {
    items.push_back(conditional ? parse_expression() : parse_or());
    if (!take_op(",")) break;
    tuple = true;
  }
  if (!tuple && items.size() == 1) return std::move(items.front());
  if (items.empty() && !parentheses) error(describe() + ", expected an expression");
  const std::size_t below = depth_of(items);
  return make(line, ListLiteral{std::move(items), true}, below);
}

ExpressionPtr ExpressionParser::parse_expression() {
  const Nested nested(*this);
  ExpressionPtr value = parse_or();
  while (is_name("if")) {
    const std::size_t line = next().line;
    Conditional out{parse_or(), std::move(value), nullptr};
    if (take_name("else")) out.otherwise = parse_expression();
    const std::size_t below = std::max({depth_of(out.condition), depth_of(out.then), depth_of(out.otherwise)});
    value = make(line, std::move(out), below);
  }
  return value;
}

ExpressionPtr ExpressionParser::parse_or() {
  return parse_logical("or", [this] { return parse_and(); });
}
ExpressionPtr ExpressionParser::parse_and() {
  return parse_logical("and", [this] { return parse_not(); });
}

template <class Operand>
ExpressionPtr ExpressionParser::parse_logical(std::string_view name, Operand&& operand) {
  const std::size_t line = peek().line;
  Expressions operands;
  operands.push_back(operand());
  while (take_name(name)) operands.push_back(operand());
  if (operands.size() == 1) return std::move(operands.front());
  const std::size_t below = depth_of(operands);
  return make(line, Logical{name == "and", std::move(operands)}, below);
}

ExpressionPtr ExpressionParser::parse_not() {
  if (!is_name("not")) return parse_comparison();
  const Nested nested(*this);
  const std::size_t line = next().line;
  ExpressionPtr operand = parse_not();
  const std::size_t below = depth_of(operand);
  return make(line, Unary{Unary::Operator::logical_not, std::move(operand)}, below);
}

ExpressionPtr ExpressionParser::parse_comparison() {
  const std::size_t line = peek().line;
  Comparison out{parse_sum(), {}};
  for (;;) {
    std::string op;
    if (is_name("in")) {
      op = next().text;
    } else if (is_name("not") && is_name("in", 1)) {
      next();
      next();
      op = "not in";
    } else if (peek().kind == Kind::op) {
      for (const std::string_view known : {"==", "!=", "<", "<=", ">", ">="}) {
        if (is_op(known)) op = known;
      }
      if (!op.empty()) next();
    }
    if (op.empty()) break;
    out.rest.emplace_back(std::move(op), parse_sum());
  }
  if (out.rest.empty()) return std::move(out.first);
  const std::size_t below = std::max(depth_of(out.first), depth_of(out.rest));
  return make(line, std::move(out), below);
}

template <class Operand>
ExpressionPtr ExpressionParser::parse_arithmetic(std::initializer_list<std::string_view> ops, Operand&& operand) {
  ExpressionPtr left = operand();
  for (;;) {
    const auto op = std::find_if(ops.begin(), ops.end(), [this](std::string_view known) { return is_op(known); });
    if (op == ops.end()) return left;
    const std::size_t line = next().line;
    Arithmetic out{std::string(*op), std::move(left), operand()};
    const std::size_t below = std::max(depth_of(out.left), depth_of(out.right));
    left = make(line, std::move(out), below);
  }
}

ExpressionPtr ExpressionParser::parse_sum() {
  return parse_arithmetic({"+", "-"}, [this] { return parse_concat(); });
}

ExpressionPtr ExpressionParser::parse_concat() {
  const std::size_t line = peek().line;
  Expressions operands;
  operands.push_back(parse_product());
  while (take_op("~")) operands.push_back(parse_product());
  if (operands.size() == 1) return std::move(operands.front());
  const std::size_t below = depth_of(operands);
  return make(line, Concat{std::move(operands)}, below);
}

ExpressionPtr ExpressionParser::parse_product() {
  return parse_arithmetic({"*", "/", "//", "%"}, [this] { return parse_power(); });
}

ExpressionPtr ExpressionParser::parse_power() {
  return parse_arithmetic({"**"}, [this] { return parse_unary(true); });
}

ExpressionPtr ExpressionParser::parse_unary(bool with_filters) {
  const Nested nested(*this);
  const std::size_t line = peek().line;
  ExpressionPtr value;
  if (is_op("-") || is_op("+")) {
    const auto op = next().text == "-" ? Unary::Operator::negative : Unary::Operator::positive;
    ExpressionPtr operand = parse_unary(false);
    const std::size_t below = depth_of(operand);
    value = make(line, Unary{op, std::move(operand)}, below);
  } else {
    value = parse_primary();
  }
  value = parse_postfix(std::move(value));
  return with_filters ? parse_filters(std::move(value)) : std::move(value);
}

ExpressionPtr ExpressionParser::parse_primary() {
  const Token& token = peek();
  const std::size_t line = token.line;
  if (token.kind == Kind::name) {
    const std::string name = next().text;
    if (name == "true" || name == "True") return make(line, Literal{Value::of(true)}, 0);
    if (name == "false" || name == "False") return make(line, Literal{Value::of(false)}, 0);
    if (name == "none" || name == "None") return make(line, Literal{Value::none()}, 0);
    return make(line, Name{name}, 0);
  }
  if (token.kind == Kind::string) {
    std::string text = next().text;
    while (peek().kind == Kind::string) text += next().text;
    return make(line, Literal{Value::of(std::move(text))}, 0);
  }
  if (token.kind == Kind::integer || token.kind == Kind::real) return parse_number();
  if (take_op("(")) {
    ExpressionPtr value = parse_tuple(true, true);
    expect_op(")");
    return value;
  }
  if (take_op("[")) {
    Expressions items;
    while (!is_op("]")) {
      if (!items.empty()) expect_op(",");
      if (!is_op("]")) items.push_back(parse_expression());
    }
    next();
    const std::size_t below = depth_of(items);
    return make(line, ListLiteral{std::move(items), false}, below);
  }
  if (take_op("{")) return parse_dict(line);
  error("an unexpected " + describe());
}

ExpressionPtr ExpressionParser::parse_number() {
  const Token& token = peek();
  const char* begin = token.text.data();
  const char* end = begin + token.text.size();
  Value value;
  std::errc result{};
  if (token.kind == Kind::integer) {
    std::int64_t integer = 0;
    result = std::from_chars(begin, end, integer).ec;
    value = Value::integer(integer);
  } else {
    double number = 0;
    result = std::from_chars(begin, end, number).ec;
    value = Value::number(number);
  }
  if (result != std::errc{}) unsupported("the number " + quote(token.text, 40) + " is");
  return make(next().line, Literal{std::move(value)}, 0);
}

ExpressionPtr ExpressionParser::parse_dict(std::size_t line) {
  DictLiteral out;
  while (!is_op("}")) {
    if (!out.items.empty()) expect_op(",");
    if (is_op("}")) break;
    ExpressionPtr key = parse_expression();
    expect_op(":");
    out.items.emplace_back(std::move(key), parse_expression());
  }
  next();
  const std::size_t below = depth_of(out.items);
  return make(line, std::move(out), below);
}

ExpressionPtr ExpressionParser::parse_postfix(ExpressionPtr value) {
  for (;;) {
    const std::size_t line = peek().line;
    const std::size_t below = depth_of(value);
    if (take_op(".")) {
      if (peek().kind == Kind::integer) {
        value = make(line, Subscript{std::move(value), parse_number()}, std::max<std::size_t>(below, 1));
      } else {
        value = make(line, Attribute{std::move(value), expect_name()}, below);
      }
    } else if (take_op("[")) {
      value = parse_subscript(std::move(value), line);
    } else if (is_op("(")) {
      value = parse_call(std::move(value));
    } else {
      return value;
    }
  }
}

ExpressionPtr ExpressionParser::parse_call(ExpressionPtr callee) {
  const std::size_t line = peek().line;
  Call out{std::move(callee), parse_arguments()};
  const std::size_t below = std::max(depth_of(out.callee), depth_of(out.arguments));
  return make(line, std::move(out), below);
}

ExpressionPtr ExpressionParser::parse_subscript(ExpressionPtr object, std::size_t line) {
  const auto part = [this] { return is_op(":") || is_op("]") ? nullptr : parse_expression(); };
  ExpressionPtr first = part();
  if (!is_op(":")) {
    if (first == nullptr) error("an empty subscript");
    if (is_op(",")) unsupported("a subscript with commas is");
    expect_op("]");
    const std::size_t below = std::max(depth_of(object), depth_of(first));
    return make(line, Subscript{std::move(object), std::move(first)}, below);
  }
  next();
  Slice out{std::move(object), std::move(first), part(), nullptr};
  if (take_op(":")) out.step = part();
  expect_op("]");
  const std::size_t below =
      std::max({depth_of(out.object), depth_of(out.start), depth_of(out.stop), depth_of(out.step)});
  return make(line, std::move(out), below);
}

CallArguments ExpressionParser::parse_arguments() {
  CallArguments out;
  expect_op("(");
  bool first = true;
  while (!is_op(")")) {
    if (!std::exchange(first, false)) expect_op(",");
    if (is_op(")")) break;
    if (is_op("*") || is_op("**")) unsupported("unpacking arguments with * or ** is");
    if (peek().kind == Kind::name && is_op("=", 1)) {
      std::string name = next().text;
      next();
      out.keywords.emplace_back(std::move(name), parse_expression());
    } else {
      if (!out.keywords.empty()) error("a positional argument after one with a name");
      out.positional.push_back(parse_expression());
    }
  }
  next();
  return out;
}

ExpressionPtr ExpressionParser::parse_filters(ExpressionPtr value) {
  for (;;) {
    if (take_op("|")) {
      value = parse_filter(std::move(value));
    } else if (is_name("is")) {
      value = parse_test(std::move(value));
    } else if (is_op("(")) {
      value = parse_call(std::move(value));
    } else {
      return value;
    }
  }
}

std::string ExpressionParser::parse_dotted_name() {
  std::string name = expect_name();
  while (take_op(".")) name += "." + expect_name();
  return name;
}

ExpressionPtr ExpressionParser::parse_filter(ExpressionPtr input) {
  const std::size_t line = peek().line;
  Filter out{std::move(input), parse_dotted_name(), {}};
  if (is_op("(")) out.arguments = parse_arguments();
  const std::size_t below = std::max(depth_of(out.input), depth_of(out.arguments));
  return make(line, std::move(out), below);
}

ExpressionPtr ExpressionParser::parse_test(ExpressionPtr input) {
  const Nested nested(*this);
  const std::size_t line = next().line;
  Test out{std::move(input), "", {}, take_name("not")};
  out.name = parse_dotted_name();
  const bool literal = peek().kind == Kind::name || peek().kind == Kind::string || peek().kind == Kind::integer ||
                       peek().kind == Kind::real || is_op("[") || is_op("{");
  if (is_op("(")) {
    out.arguments = parse_arguments();
  } else if (literal && !is_name("else") && !is_name("or") && !is_name("and")) {
    if (is_name("is")) error("two tests with \"is\" in a row");
    // Jinja reads any other name here as the test's argument; "if" must stay with the loop or the condition.
    if (!is_name("if") && !is_name("in") && !is_name("not")) {
      out.arguments.positional.push_back(parse_postfix(parse_primary()));
    }
  }
  const std::size_t below = std::max(depth_of(out.input), depth_of(out.arguments));
  return make(line, std::move(out), below);
}

}  // namespace wick::text::jinja
