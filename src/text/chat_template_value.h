#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

// The values of chat templates, with the meaning that Python gives them. Lists and dicts are immutable, so that values
// never form cycles; namespaces, loops and macros live in the Evaluator and are pointed at.
namespace wick::text::jinja {

struct MacroStatement;
struct Scope;
struct Value;
struct ListData;
struct DictData;

struct Undefined {};
struct None {};
using String = std::shared_ptr<const std::string>;
using List = std::shared_ptr<const ListData>;
using Dict = std::shared_ptr<const DictData>;

struct NamespaceData {
  std::map<std::string, Value, std::less<>> attributes;
};

struct LoopData {
  List items;
  std::size_t index = 0;
};

struct MacroData {
  const MacroStatement* macro;
  Scope* scope;  // where it was defined
};

/// A function of the language, or a method that was named and not called.
struct Function {
  std::string_view name;
};

struct Value {
  using Data = std::variant<Undefined, None, bool, std::int64_t, double, String, List, Dict, NamespaceData*, LoopData*,
                            const MacroData*, Function>;
  Data data;

  static Value of(std::string text) { return {std::make_shared<const std::string>(std::move(text))}; }
  static Value of(bool value) { return {value}; }
  static Value integer(std::int64_t value) { return {value}; }
  static Value number(double value) { return {value}; }
  static Value none() { return {None{}}; }

  template <class T>
  bool is() const {
    return std::holds_alternative<T>(data);
  }
  /// The string, if it is one.
  const std::string* string() const;
  const ListData* list() const;
  const DictData* dict() const;
  /// An integer or a boolean, as Python counts them.
  std::optional<std::int64_t> as_integer() const;
  /// An integer, a boolean or a float.
  std::optional<double> as_number() const;
};

struct ListData {
  std::vector<Value> items;
  bool tuple = false;
  std::size_t depth = 1;
};

struct DictData {
  std::vector<std::pair<Value, Value>> items;  // in the order of insertion
  std::size_t depth = 1;
};

/// What a rendering may still use. A unit is about one byte written or read; evaluating a node costs kStep of them.
class Budget {
 public:
  static constexpr std::size_t kStep = 32;
  void spend(std::size_t units);

 private:
  std::size_t left_ = std::size_t{256} << 20;
};

Value make_list(Budget& budget, std::vector<Value> items, bool tuple = false);
/// Of several entries with one key, the last value stands at the place of the first.
Value make_dict(Budget& budget, std::vector<std::pair<Value, Value>> items);
Value make_string(Budget& budget, std::string text);

/// "a string", for messages.
std::string_view type_name(const Value& value);
bool truth(const Value& value);
bool equals(Budget& budget, const Value& a, const Value& b);
/// Below zero, zero or above as a < b, a == b, a > b. Error(format) for values without an order.
int compare(Budget& budget, const Value& a, const Value& b);
const Value* find(Budget& budget, const DictData& dict, const Value& key);
const Value* find(Budget& budget, const DictData& dict, std::string_view key);
bool contains(Budget& budget, const Value& container, const Value& item);

/// As Python's str() and repr().
std::string to_string(Budget& budget, const Value& value);
std::string to_repr(Budget& budget, const Value& value);

struct JsonStyle {
  std::optional<std::string> indent;
  std::string item_separator = ", ";
  std::string key_separator = ": ";
  bool sort_keys = false;
  bool ensure_ascii = false;
};
/// As Python's json.dumps().
std::string to_json(Budget& budget, const Value& value, const JsonStyle& style);
/// Reads JSON text, keeping the order of keys. Error(invalid_argument) naming `what`.
Value from_json(Budget& budget, std::string_view json, std::string_view what);

/// What a for loop or a filter walks over: the items of a list, the keys of a dict, the characters of a string.
std::vector<Value> iterate(Budget& budget, const Value& value);
/// The number of items of a list or dict, of characters of a string.
std::size_t length(Budget& budget, const Value& value);
/// Where each character of a UTF-8 string starts, and its end.
std::vector<std::size_t> character_starts(Budget& budget, std::string_view text);

/// A binary operator: + - * / // % **.
Value arithmetic(Budget& budget, std::string_view op, const Value& a, const Value& b);
Value negate(const Value& value);
/// object[index]; undefined where there is nothing.
Value subscript(Budget& budget, const Value& object, const Value& index);
/// object[start:stop:step]; the bounds are integers or none.
Value slice(Budget& budget, const Value& object, const Value& start, const Value& stop, const Value& step);

/// Whitespace as Python's str.isspace() has it.
bool is_space(std::uint32_t code_point);
/// str.strip() of the chosen ends; with `characters`, of these instead of whitespace.
std::string_view strip(std::string_view text, bool left, bool right,
                       std::optional<std::string_view> characters = std::nullopt);

}  // namespace wick::text::jinja
