#include "text/chat_template_evaluator.h"

#include <algorithm>
#include <deque>

#include "core/fail.h"
#include "io/quote.h"
#include "text/chat_template_filters.h"

namespace wick::text::jinja {

struct Scope {
  Scope* parent;
  Variables variables;
};

namespace {

constexpr std::size_t kMaxDepth = 1000;  // of nodes within each other, macro calls included
constexpr std::size_t kMaxOutput = std::size_t{64} << 20;
constexpr std::size_t kScopeUnits = 256;

class Evaluator {
 public:
  Evaluator(Variables variables, Budget& budget) : budget_(budget) {
    scopes_.push_back({nullptr, std::move(variables)});
    scope_ = &scopes_.front();
  }

  std::string run(const Block& block) {
    try {
      execute(block);
    } catch (const Error& error) {
      fail(error.code(), "line {}: {}", line_, error.what());
    }
    return std::move(*out_);
  }

 private:
  enum class Flow { normal, stop_loop, next_item };

  class Nested {
   public:
    explicit Nested(std::size_t& depth) : depth_(depth) {
      if (++depth_ > kMaxDepth) fail(ErrorCode::format, "calls nested deeper than {} levels", kMaxDepth);
    }
    ~Nested() { --depth_; }
    Nested(const Nested&) = delete;
    Nested& operator=(const Nested&) = delete;

   private:
    std::size_t& depth_;
  };

  // Statements.

  Flow execute(const Block& block) {
    const Nested nested(depth_);
    for (const Statement& statement : block) {
      line_ = statement.line;
      budget_.spend(Budget::kStep);
      const Flow flow = std::visit([this](const auto& node) { return run_statement(node); }, statement.node);
      if (flow != Flow::normal) return flow;
    }
    return Flow::normal;
  }

  void write(std::string_view text) {
    budget_.spend(text.size());
    if (out_->size() + text.size() > kMaxOutput) fail(ErrorCode::format, "the output exceeds {} bytes", kMaxOutput);
    *out_ += text;
  }

  Flow run_statement(const TextStatement& node) { return write(node.text), Flow::normal; }

  Flow run_statement(const OutputStatement& node) {
    const Value value = evaluate(*node.value);
    if (const std::string* text = value.string()) {
      write(*text);
    } else {
      write(to_string(budget_, value));
    }
    return Flow::normal;
  }

  Flow run_statement(const IfStatement& node) {
    for (const auto& [condition, body] : node.branches) {
      if (truth(evaluate(*condition))) return execute(body);
    }
    return execute(node.otherwise);
  }

  Flow run_statement(const ForStatement& node) {
    Scope* const outer = scope_;
    const std::vector<Value> all = iterate(budget_, evaluate(*node.items));
    std::vector<Value> chosen;
    for (const Value& item : all) {
      if (node.condition != nullptr) {
        enter_scope(outer);
        assign(node, item);
        if (!truth(evaluate(*node.condition))) continue;
      }
      chosen.push_back(item);
    }
    scope_ = outer;
    if (chosen.empty()) return execute(node.otherwise);

    budget_.spend(kScopeUnits);
    LoopData& loop = loops_.emplace_back();
    loop.items = std::get<List>(make_list(budget_, std::move(chosen)).data);
    Flow flow = Flow::normal;
    for (; loop.index < loop.items->items.size(); ++loop.index) {
      enter_scope(outer);
      scope_->variables["loop"] = {&loop};
      assign(node, loop.items->items[loop.index]);
      flow = execute(node.body);
      if (flow == Flow::stop_loop) break;
    }
    scope_ = outer;
    return Flow::normal;
  }

  void assign(const ForStatement& node, const Value& item) {
    if (!node.unpack) {
      scope_->variables[node.targets.front()] = item;
      return;
    }
    const std::vector<Value> parts = unpack(item, node.targets.size());
    for (std::size_t i = 0; i < parts.size(); ++i) scope_->variables[node.targets[i]] = parts[i];
  }

  std::vector<Value> unpack(const Value& value, std::size_t count) {
    std::vector<Value> parts = iterate(budget_, value);
    if (parts.size() != count) {
      fail(ErrorCode::format, "{} of {} items for {} names", type_name(value), parts.size(), count);
    }
    return parts;
  }

  Flow run_statement(const SetStatement& node) {
    Value value;
    if (node.value != nullptr) {
      value = evaluate(*node.value);
    } else {
      value = capture(node.body, node.filters.get());
    }
    if (!node.unpack) {
      assign(node.targets.front(), std::move(value));
    } else {
      const std::vector<Value> parts = unpack(value, node.targets.size());
      for (std::size_t i = 0; i < parts.size(); ++i) assign(node.targets[i], parts[i]);
    }
    return Flow::normal;
  }

  void assign(const SetStatement::Target& target, Value value) {
    budget_.spend(kScopeUnits);
    if (target.attribute.empty()) {
      scope_->variables[target.name] = std::move(value);
      return;
    }
    const Value object = lookup(target.name);
    if (!object.is<NamespaceData*>()) {
      fail(ErrorCode::format, "{} is {}, expected a namespace", quote(target.name, 60), type_name(object));
    }
    std::get<NamespaceData*>(object.data)->attributes[target.attribute] = std::move(value);
  }

  Flow run_statement(const MacroStatement& node) {
    budget_.spend(kScopeUnits);
    scope_->variables[node.name] = {static_cast<const MacroData*>(&macros_.emplace_back(MacroData{&node, scope_}))};
    return Flow::normal;
  }

  Flow run_statement(const FilterStatement& node) {
    write(to_string(budget_, capture(node.body, node.filters.get())));
    return Flow::normal;
  }

  Flow run_statement(const GenerationStatement& node) { return execute(node.body); }
  Flow run_statement(const BreakStatement&) { return Flow::stop_loop; }
  Flow run_statement(const ContinueStatement&) { return Flow::next_item; }

  // What a block writes, through filters, in a scope of its own.
  Value capture(const Block& body, const Expression* filters) {
    std::string text;
    std::string* const out = std::exchange(out_, &text);
    Scope* const outer = scope_;
    enter_scope(outer);
    execute(body);
    scope_ = outer;
    out_ = out;
    Value value = make_string(budget_, std::move(text));
    if (filters == nullptr) return value;
    std::swap(block_, value);
    Value result = evaluate(*filters);
    std::swap(block_, value);
    return result;
  }

  void enter_scope(Scope* parent) {
    budget_.spend(kScopeUnits);
    scope_ = &scopes_.emplace_back(Scope{parent, {}});
  }

  Value lookup(std::string_view name) const {
    for (const Scope* scope = scope_; scope != nullptr; scope = scope->parent) {
      if (const auto at = scope->variables.find(name); at != scope->variables.end()) return at->second;
    }
    if (has_function(name)) return {Function{name}};
    return {};
  }

  // Expressions.

  Value evaluate(const Expression& expression) {
    const Nested nested(depth_);
    line_ = expression.line;
    budget_.spend(Budget::kStep);
    return std::visit([this](const auto& node) { return value_of(node); }, expression.node);
  }

  std::vector<Value> evaluate(const Expressions& expressions) {
    std::vector<Value> out;
    for (const ExpressionPtr& expression : expressions) out.push_back(evaluate(*expression));
    return out;
  }

  Arguments evaluate(const CallArguments& call) {
    Arguments out{evaluate(call.positional), {}};
    for (const auto& [name, value] : call.keywords) out.keywords.emplace_back(name, evaluate(*value));
    return out;
  }

  Value value_of(const Literal& node) { return node.value; }
  Value value_of(const Name& node) { return lookup(node.name); }
  Value value_of(const ListLiteral& node) { return make_list(budget_, evaluate(node.items), node.tuple); }

  Value value_of(const DictLiteral& node) {
    std::vector<std::pair<Value, Value>> items;
    for (const auto& [key, value] : node.items) {
      Value name = evaluate(*key);
      items.emplace_back(std::move(name), evaluate(*value));
    }
    return make_dict(budget_, std::move(items));
  }

  Value value_of(const Attribute& node) {
    const Value object = evaluate(*node.object);
    need_defined(object, *node.object, node.name);
    if (has_method(object, node.name)) return {Function{node.name}};
    return get_attribute(budget_, object, node.name);
  }

  Value value_of(const Subscript& node) {
    const Value object = evaluate(*node.object);
    const Value index = evaluate(*node.index);
    const std::string* name = index.string();
    need_defined(object, *node.object, name == nullptr ? "an item" : std::string_view(*name));
    Value value = subscript(budget_, object, index);
    if (!value.is<Undefined>() || name == nullptr) return value;
    if (has_method(object, *name)) fail(ErrorCode::unsupported, "a method by subscript is not supported");
    return object.is<NamespaceData*>() || object.is<LoopData*>() ? get_attribute(budget_, object, *name) : value;
  }

  // What an expression is called in messages.
  static std::string describe(const Expression& expression) {
    if (const auto* name = std::get_if<Name>(&expression.node)) return quote(name->name, 60);
    if (const auto* attribute = std::get_if<Attribute>(&expression.node)) return quote(attribute->name, 60);
    return "a value";
  }

  static void need_defined(const Value& object, const Expression& expression, std::string_view part) {
    if (!object.is<Undefined>()) return;
    fail(ErrorCode::format, "{} is undefined, cannot read {} of it", describe(expression), quote(part, 60));
  }

  Value value_of(const Slice& node) {
    const Value object = evaluate(*node.object);
    const auto bound = [this](const ExpressionPtr& part) { return part ? evaluate(*part) : Value::none(); };
    const Value start = bound(node.start);
    const Value stop = bound(node.stop);
    return slice(budget_, object, start, stop, bound(node.step));
  }

  Value value_of(const Call& node) {
    if (const auto* attribute = std::get_if<Attribute>(&node.callee->node)) {
      const Value object = evaluate(*attribute->object);
      need_defined(object, *attribute->object, attribute->name);
      if (object.is<LoopData*>() && attribute->name == "cycle") return cycle(object, evaluate(node.arguments));
      if (!object.is<NamespaceData*>() && !object.is<LoopData*>()) {
        if (!has_method(object, attribute->name)) {
          const Value member = get_attribute(budget_, object, attribute->name);
          if (!member.is<Undefined>()) return call(member, node);
        }
        return call_method(budget_, object, attribute->name, evaluate(node.arguments));
      }
      return call(get_attribute(budget_, object, attribute->name), node);
    }
    return call(evaluate(*node.callee), node);
  }

  Value call(const Value& callee, const Call& node) {
    if (callee.is<const MacroData*>())
      return call_macro(*std::get<const MacroData*>(callee.data), evaluate(node.arguments));
    if (!callee.is<Function>()) {
      const bool named = std::holds_alternative<Name>(node.callee->node);
      if (callee.is<Undefined>() && named) {
        fail(ErrorCode::unsupported, "the function {} is not supported", describe(*node.callee));
      }
      fail(ErrorCode::format, "{} is {}, expected a function", describe(*node.callee), type_name(callee));
    }
    const std::string_view name = std::get<Function>(callee.data).name;
    const Arguments arguments = evaluate(node.arguments);
    if (name != "namespace") return call_function(budget_, name, arguments);
    if (!arguments.positional.empty()) fail(ErrorCode::unsupported, "namespace() of a mapping is not supported");
    budget_.spend(kScopeUnits * (arguments.keywords.size() + 1));
    NamespaceData& data = namespaces_.emplace_back();
    for (const auto& [key, value] : arguments.keywords) data.attributes[key] = value;
    return {&data};
  }

  Value cycle(const Value& object, const Arguments& arguments) {
    if (arguments.positional.empty()) fail(ErrorCode::format, "loop.cycle() without arguments");
    return arguments.positional[std::get<LoopData*>(object.data)->index % arguments.positional.size()];
  }

  Value call_macro(const MacroData& data, const Arguments& arguments) {
    const MacroStatement& macro = *data.macro;
    if (arguments.positional.size() > macro.parameters.size()) {
      fail(ErrorCode::format, "the macro {} takes {} arguments, found {}", quote(macro.name, 60),
           macro.parameters.size(), arguments.positional.size());
    }
    Scope* const outer = scope_;
    enter_scope(data.scope);
    for (std::size_t i = 0; i < arguments.positional.size(); ++i) {
      scope_->variables[macro.parameters[i].first] = arguments.positional[i];
    }
    for (const auto& [name, value] : arguments.keywords) {
      const bool known = std::any_of(macro.parameters.begin(), macro.parameters.end(),
                                     [&](const auto& parameter) { return parameter.first == name; });
      if (!known || !scope_->variables.emplace(name, value).second) {
        fail(ErrorCode::format, "the macro {} takes no argument {}{}", quote(macro.name, 60), quote(name, 60),
             known ? " twice" : "");
      }
    }
    for (const auto& [name, value] : macro.parameters) {
      if (scope_->variables.contains(name)) continue;
      Value fallback = value == nullptr ? Value{} : evaluate(*value);
      scope_->variables.emplace(name, std::move(fallback));
    }
    std::string text;
    std::string* const out = std::exchange(out_, &text);
    execute(macro.body);
    out_ = out;
    scope_ = outer;
    return make_string(budget_, std::move(text));
  }

  Value value_of(const Filter& node) {
    const Value input = node.input == nullptr ? block_ : evaluate(*node.input);
    return apply_filter(budget_, node.name, input, evaluate(node.arguments));
  }

  Value value_of(const Test& node) {
    const Value input = evaluate(*node.input);
    return Value::of(apply_test(budget_, node.name, input, evaluate(node.arguments)) != node.negated);
  }

  Value value_of(const Unary& node) {
    const Value operand = evaluate(*node.operand);
    if (node.op == Unary::Operator::logical_not) return Value::of(!truth(operand));
    if (node.op == Unary::Operator::negative) return negate(operand);
    if (!operand.as_number()) fail(ErrorCode::format, "+ before {}, expected a number", type_name(operand));
    return operand;
  }

  Value value_of(const Logical& node) {
    Value value;
    for (const ExpressionPtr& operand : node.operands) {
      value = evaluate(*operand);
      if (truth(value) != node.conjunction) break;
    }
    return value;
  }

  Value value_of(const Arithmetic& node) {
    const Value left = evaluate(*node.left);
    return arithmetic(budget_, node.op, left, evaluate(*node.right));
  }

  Value value_of(const Concat& node) {
    std::string text;
    for (const ExpressionPtr& operand : node.operands) {
      text += to_string(budget_, evaluate(*operand));
      budget_.spend(text.size());
    }
    return make_string(budget_, std::move(text));
  }

  Value value_of(const Comparison& node) {
    Value left = evaluate(*node.first);
    for (const auto& [op, operand] : node.rest) {
      Value right = evaluate(*operand);
      if (!holds(op, left, right)) return Value::of(false);
      left = std::move(right);
    }
    return Value::of(true);
  }

  bool holds(std::string_view op, const Value& left, const Value& right) {
    if (op == "==") return equals(budget_, left, right);
    if (op == "!=") return !equals(budget_, left, right);
    if (op == "in") return contains(budget_, right, left);
    if (op == "not in") return !contains(budget_, right, left);
    const int order = compare(budget_, left, right);
    if (op == "<") return order < 0;
    if (op == "<=") return order <= 0;
    return op == ">" ? order > 0 : order >= 0;
  }

  Value value_of(const Conditional& node) {
    if (truth(evaluate(*node.condition))) return evaluate(*node.then);
    return node.otherwise == nullptr ? Value{} : evaluate(*node.otherwise);
  }

  Budget& budget_;
  // Values point into these until the rendering ends: they may outlive the block that made them.
  std::deque<Scope> scopes_;
  std::deque<NamespaceData> namespaces_;
  std::deque<LoopData> loops_;
  std::deque<MacroData> macros_;

  Scope* scope_ = nullptr;
  Value block_;  // the input of the filters of a block
  std::string output_;
  std::string* out_ = &output_;
  std::size_t depth_ = 0;
  std::size_t line_ = 1;
};

}  // namespace

std::string render_template(const Block& block, Variables variables, Budget& budget) {
  return Evaluator(std::move(variables), budget).run(block);
}

}  // namespace wick::text::jinja
