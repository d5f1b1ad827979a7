#include "text/chat_template_parser.h"

#include <fmt/format.h>

#include <algorithm>

#include "io/quote.h"
#include "text/chat_template_expressions.h"

namespace wick::text::jinja {
namespace {

// Statements; their expressions are the base's.
class Parser : ExpressionParser {
 public:
  explicit Parser(std::vector<Token> tokens) : ExpressionParser(std::move(tokens)) {}

  Block run() {
    Block body = parse_block({});
    if (peek().kind != Kind::end) error("unexpected " + describe());
    return body;
  }

 private:
  void expect_statement_end() {
    if (peek().kind != Kind::statement_end) error(describe() + ", expected the end of the tag");
    next();
  }

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
        block.push_back(parse_output(line));
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

  Statement parse_output(std::size_t line) {
    ExpressionPtr value = parse_tuple();
    if (peek().kind != Kind::output_end) error(describe() + ", expected \"}}\"");
    next();
    return {line, OutputStatement{std::move(value)}};
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

  std::size_t loops_ = 0;  // around the statement that is being parsed, within its macro
  std::string end_;        // the statement that ended the last block
};

}  // namespace

Block parse_template(std::string_view source) { return Parser(tokenize(source)).run(); }

}  // namespace wick::text::jinja
