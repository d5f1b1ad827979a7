#include "text/chat_template_parser.h"

#include <algorithm>
#include <charconv>

#include "core/fail.h"
#include "io/quote.h"
#include "text/chat_template_lexer.h"

namespace wick::text::jinja {
namespace {

using Kind = Token::Kind;

constexpr std::size_t kMaxDepth = 100;      // of the parser's recursion
constexpr std::size_t kMaxTreeDepth = 200;  // of an expression: longer chains of operators nest to the left

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

class Parser {
 public:
  explicit Parser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  Block run() {
    Block body = parse_block({});
    if (peek().kind != Kind::end) error("unexpected " + describe());
    return body;
  }

 private:
  class Nested {
   public:
    explicit Nested(Parser& parser) : depth_(parser.depth_) {
      if (++depth_ > kMaxDepth) parser.error(fmt::format("nested deeper than {} levels", kMaxDepth));
    }
    ~Nested() { --depth_; }
    Nested(const Nested&) = delete;
    Nested& operator=(const Nested&) = delete;

   private:
    std::size_t& depth_;
  };

  // Tokens.

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
  void expect_op(std::string_view op) {
    if (!take_op(op)) error(fmt::format("{}, expected \"{}\"", describe(), op));
  }
  void expect_statement_end() {
    if (peek().kind != Kind::statement_end) error(describe() + ", expected the end of the tag");
    next();
  }
  std::string expect_name() {
    if (peek().kind != Kind::name) error(describe() + ", expected a name");
    return next().text;
  }

  std::string describe() const {
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

  [[noreturn]] void error(const std::string& what) const { fail(ErrorCode::format, "line {}: {}", peek().line, what); }
  [[noreturn]] void unsupported(const std::string& what) const {
    fail(ErrorCode::unsupported, "line {}: {} not supported in chat templates", peek().line, what);
  }

  template <class Node, class... Children>
  ExpressionPtr make(std::size_t line, Node node, std::size_t below) const {
    if (below >= kMaxTreeDepth) error(fmt::format("an expression nested deeper than {} levels", kMaxTreeDepth));
    return std::make_unique<const Expression>(Expression{line, below + 1, std::move(node)});
  }

  // Statements.

  // Parses up to a statement whose name is one of `ends`, and takes its "{%" and name.
  Block parse_block(const std::vector<std::string_view>& ends) {
    const Nested nested(*this);
    Block block;
    for (;;) {
      const Token& token = peek();
      if (token.kind == Kind::end) {
        if (!ends.empty()) error(fmt::format("the template ends before {{% {} %}}", ends.back()));
        return block;
      }
      const std::size_t line = token.line;
      if (token.kind == Kind::text) {
        block.push_back({line, TextStatement{next().text}});
      } else if (token.kind == Kind::output_begin) {
        next();
        block.push_back({line, OutputStatement{parse_tuple()}});
        if (peek().kind != Kind::output_end) error(describe() + ", expected \"}}\"");
        next();
      } else {
        next();
        if (peek().kind != Kind::name) error(describe() + ", expected the name of a statement");
        if (std::find(ends.begin(), ends.end(), peek().text) != ends.end()) {
          end_ = next().text;
          return block;
        }
        block.push_back(parse_statement(line));
      }
    }
  }

  // parse_block() to an end that has nothing else in its tag.
  Block parse_body(std::string_view end) {
    Block body = parse_block({end});
    if (end == "endmacro" && peek().kind == Kind::name) next();
    expect_statement_end();
    return body;
  }

  Statement parse_statement(std::size_t line) {
    const std::string& name = peek().text;
    if (name == "if") return next(), Statement{line, parse_if()};
    if (name == "for") return next(), Statement{line, parse_for()};
    if (name == "set") return next(), Statement{line, parse_set()};
    if (name == "macro") return next(), Statement{line, parse_macro()};
    if (name == "filter") {
      next();
      ExpressionPtr filters = parse_filter(nullptr);
      filters = parse_filters(std::move(filters));
      expect_statement_end();
      return {line, FilterStatement{std::move(filters), parse_body("endfilter")}};
    }
    if (name == "generation") {
      next();
      expect_statement_end();
      return {line, GenerationStatement{parse_body("endgeneration")}};
    }
    if (name == "break" || name == "continue") {
      const bool stop = next().text == "break";
      if (loops_ == 0) error(stop ? "break outside of a loop" : "continue outside of a loop");
      expect_statement_end();
      if (stop) return {line, BreakStatement{}};
      return {line, ContinueStatement{}};
    }
    for (const std::string_view known :
         {"block", "extends", "include", "import", "from", "call", "with", "do", "autoescape", "trans", "debug"}) {
      if (name == known) unsupported(fmt::format("the statement \"{}\" is", known));
    }
    if (name.starts_with("end") || name == "else" || name == "elif") error("an unexpected " + quote(name, 60));
    unsupported("the statement " + quote(name, 60) + " is");
  }

  IfStatement parse_if() {
    IfStatement out;
    for (;;) {
      ExpressionPtr condition = parse_tuple(false);
      expect_statement_end();
      Block body = parse_block({"elif", "else", "endif"});
      out.branches.emplace_back(std::move(condition), std::move(body));
      if (end_ == "elif") continue;
      if (end_ == "else") {
        expect_statement_end();
        out.otherwise = parse_block({"endif"});
      }
      expect_statement_end();
      return out;
    }
  }

  ForStatement parse_for() {
    ForStatement out{};
    for (const SetStatement::Target& target : parse_targets(out.unpack, false)) out.targets.push_back(target.name);
    if (!take_name("in")) error(describe() + ", expected \"in\"");
    out.items = parse_tuple(false);
    if (take_name("if")) out.condition = parse_expression();
    if (is_name("recursive")) unsupported("a recursive loop is");
    expect_statement_end();
    ++loops_;
    out.body = parse_block({"else", "endfor"});
    --loops_;
    if (end_ == "else") {
      expect_statement_end();
      out.otherwise = parse_block({"endfor"});
    }
    expect_statement_end();
    return out;
  }

  std::vector<SetStatement::Target> parse_targets(bool& unpack, bool with_namespace) {
    const bool parentheses = take_op("(");
    std::vector<SetStatement::Target> targets;
    unpack = false;
    do {
      if (!targets.empty() && peek().kind != Kind::name) break;  // (a,)
      if (is_op("(")) unsupported("a target within a target is");
      SetStatement::Target target{expect_name(), ""};
      for (const std::string_view constant : {"true", "false", "none", "True", "False", "None"}) {
        if (target.name == constant) error(fmt::format("an assignment to {}", constant));
      }
      if (with_namespace && take_op(".")) target.attribute = expect_name();
      targets.push_back(std::move(target));
    } while (take_op(",") && (unpack = true) && !is_name("in"));
    if (parentheses) expect_op(")");
    return targets;
  }

  SetStatement parse_set() {
    SetStatement out{};
    out.targets = parse_targets(out.unpack, true);
    if (take_op("=")) {
      out.value = parse_tuple();
      expect_statement_end();
      return out;
    }
    if (out.unpack) error(describe() + ", expected \"=\"");
    if (take_op("|")) {
      out.filters = parse_filter(nullptr);
      out.filters = parse_filters(std::move(out.filters));
    }
    expect_statement_end();
    out.body = parse_body("endset");
    return out;
  }

  MacroStatement parse_macro() {
    MacroStatement out;
    out.name = expect_name();
    expect_op("(");
    while (!is_op(")")) {
      if (!out.parameters.empty()) expect_op(",");
      std::string name = expect_name();
      ExpressionPtr value = take_op("=") ? parse_expression() : nullptr;
      if (value == nullptr && !out.parameters.empty() && out.parameters.back().second != nullptr) {
        error("a parameter without a default after one with a default");
      }
      out.parameters.emplace_back(std::move(name), std::move(value));
    }
    expect_op(")");
    expect_statement_end();
    const std::size_t loops = std::exchange(loops_, 0);
    out.body = parse_body("endmacro");
    loops_ = loops;
    return out;
  }

  // Expressions, from the loosest operator to the tightest.

  bool ends_tuple() const {
    return peek().kind == Kind::statement_end || peek().kind == Kind::output_end || is_op(")");
  }

  // An expression, or several with commas between: a tuple. `conditional`: whether "a if b" belongs to it.
  ExpressionPtr parse_tuple(bool conditional = true, bool parentheses = false) {
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

  ExpressionPtr parse_expression() {
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

  ExpressionPtr parse_or() {
    return parse_logical("or", [this] { return parse_and(); });
  }
  ExpressionPtr parse_and() {
    return parse_logical("and", [this] { return parse_not(); });
  }

  template <class Operand>
  ExpressionPtr parse_logical(std::string_view name, Operand&& operand) {
    const std::size_t line = peek().line;
    Expressions operands;
    operands.push_back(operand());
    while (take_name(name)) operands.push_back(operand());
    if (operands.size() == 1) return std::move(operands.front());
    const std::size_t below = depth_of(operands);
    return make(line, Logical{name == "and", std::move(operands)}, below);
  }

  ExpressionPtr parse_not() {
    if (!is_name("not")) return parse_comparison();
    const Nested nested(*this);
    const std::size_t line = next().line;
    ExpressionPtr operand = parse_not();
    const std::size_t below = depth_of(operand);
    return make(line, Unary{Unary::Operator::logical_not, std::move(operand)}, below);
  }

  ExpressionPtr parse_comparison() {
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
  ExpressionPtr parse_arithmetic(std::initializer_list<std::string_view> ops, Operand&& operand) {
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

  ExpressionPtr parse_sum() {
    return parse_arithmetic({"+", "-"}, [this] { return parse_concat(); });
  }

  ExpressionPtr parse_concat() {
    const std::size_t line = peek().line;
    Expressions operands;
    operands.push_back(parse_product());
    while (take_op("~")) operands.push_back(parse_product());
    if (operands.size() == 1) return std::move(operands.front());
    const std::size_t below = depth_of(operands);
    return make(line, Concat{std::move(operands)}, below);
  }

  ExpressionPtr parse_product() {
    return parse_arithmetic({"*", "/", "//", "%"}, [this] { return parse_power(); });
  }

  ExpressionPtr parse_power() {
    return parse_arithmetic({"**"}, [this] { return parse_unary(true); });
  }

  ExpressionPtr parse_unary(bool with_filters) {
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

  ExpressionPtr parse_primary() {
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

  ExpressionPtr parse_number() {
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

  ExpressionPtr parse_dict(std::size_t line) {
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

  ExpressionPtr parse_postfix(ExpressionPtr value) {
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

  ExpressionPtr parse_call(ExpressionPtr callee) {
    const std::size_t line = peek().line;
    Call out{std::move(callee), parse_arguments()};
    const std::size_t below = std::max(depth_of(out.callee), depth_of(out.arguments));
    return make(line, std::move(out), below);
  }

  ExpressionPtr parse_subscript(ExpressionPtr object, std::size_t line) {
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

  CallArguments parse_arguments() {
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

  ExpressionPtr parse_filters(ExpressionPtr value) {
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

  std::string parse_dotted_name() {
    std::string name = expect_name();
    while (take_op(".")) name += "." + expect_name();
    return name;
  }

  // A filter behind its "|".
  ExpressionPtr parse_filter(ExpressionPtr input) {
    const std::size_t line = peek().line;
    Filter out{std::move(input), parse_dotted_name(), {}};
    if (is_op("(")) out.arguments = parse_arguments();
    const std::size_t below = std::max(depth_of(out.input), depth_of(out.arguments));
    return make(line, std::move(out), below);
  }

  ExpressionPtr parse_test(ExpressionPtr input) {
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

  std::vector<Token> tokens_;
  std::size_t at_ = 0;
  std::size_t depth_ = 0;
  std::size_t loops_ = 0;  // around the statement that is being parsed, within its macro
  std::string end_;        // the statement that ended the last block
};

}  // namespace

Block parse_template(std::string_view source) { return Parser(tokenize(source)).run(); }

}  // namespace wick::text::jinja
