#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "text/chat_template_value.h"

// What a parsed template consists of.
namespace wick::text::jinja {

struct Expression;
using ExpressionPtr = std::unique_ptr<const Expression>;
using Expressions = std::vector<ExpressionPtr>;

struct CallArguments {
  Expressions positional;
  std::vector<std::pair<std::string, ExpressionPtr>> keywords;
};

struct Literal {
  Value value;
};
struct Name {
  std::string name;
};
struct ListLiteral {
  Expressions items;
  bool tuple;
};
struct DictLiteral {
  std::vector<std::pair<ExpressionPtr, ExpressionPtr>> items;
};
struct Attribute {
  ExpressionPtr object;
  std::string name;
};
struct Subscript {
  ExpressionPtr object;
  ExpressionPtr index;
};
struct Slice {
  ExpressionPtr object;
  ExpressionPtr start, stop, step;  // each may be null
};
struct Call {
  ExpressionPtr callee;
  CallArguments arguments;
};
struct Filter {
  ExpressionPtr input;  // null: the body of a block
  std::string name;
  CallArguments arguments;
};
struct Test {
  ExpressionPtr input;
  std::string name;
  CallArguments arguments;
  bool negated;
};
struct Unary {
  enum class Operator { negative, positive, logical_not };
  Operator op;
  ExpressionPtr operand;
};
struct Logical {
  bool conjunction;  // and; otherwise or
  Expressions operands;
};
struct Arithmetic {
  std::string op;
  ExpressionPtr left, right;
};
struct Concat {
  Expressions operands;
};
struct Comparison {
  ExpressionPtr first;
  std::vector<std::pair<std::string, ExpressionPtr>> rest;  // operator and operand: a < b < c
};
struct Conditional {
  ExpressionPtr condition, then, otherwise;  // otherwise may be null
};

struct Expression {
  std::size_t line;
  std::size_t depth;  // of the tree: 1 for a leaf
  std::variant<Literal, Name, ListLiteral, DictLiteral, Attribute, Subscript, Slice, Call, Filter, Test, Unary, Logical,
               Arithmetic, Concat, Comparison, Conditional>
      node;
};

struct Statement;
using Block = std::vector<Statement>;

struct TextStatement {
  std::string text;
};
struct OutputStatement {
  ExpressionPtr value;
};
struct IfStatement {
  std::vector<std::pair<ExpressionPtr, Block>> branches;
  Block otherwise;
};
struct ForStatement {
  std::vector<std::string> targets;
  bool unpack;
  ExpressionPtr items;
  ExpressionPtr condition;  // may be null
  Block body;
  Block otherwise;
};
struct SetStatement {
  struct Target {
    std::string name;
    std::string attribute;  // of the namespace `name`; may be empty
  };
  std::vector<Target> targets;
  bool unpack;
  ExpressionPtr value;  // null: the body, through the filters
  Block body;
  ExpressionPtr filters;  // may be null
};
struct MacroStatement {
  std::string name;
  std::vector<std::pair<std::string, ExpressionPtr>> parameters;  // with a default or null
  Block body;
};
struct FilterStatement {
  ExpressionPtr filters;
  Block body;
};
struct GenerationStatement {
  Block body;
};
struct BreakStatement {};
struct ContinueStatement {};

struct Statement {
  std::size_t line;
  std::variant<TextStatement, OutputStatement, IfStatement, ForStatement, SetStatement, MacroStatement, FilterStatement,
               GenerationStatement, BreakStatement, ContinueStatement>
      node;
};

}  // namespace wick::text::jinja
