#pragma once

#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/chat_template_value.h"

// What templates can call. All of it works on values alone; macros are the Evaluator's.
namespace wick::text::jinja {

struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> keywords;

  /// The arguments by the names of the parameters, null where one was not given. Error(format) when one that is
  /// required is missing or one is given that the parameters do not have; `what` is called with them.
  std::vector<const Value*> bind(std::string_view what, std::initializer_list<std::string_view> parameters,
                                 std::size_t required = 0) const;
};

/// value | name(arguments). Error(unsupported) for an unknown filter.
Value apply_filter(Budget& budget, std::string_view name, const Value& value, const Arguments& arguments);
/// value is name(arguments). Error(unsupported) for an unknown test.
bool apply_test(Budget& budget, std::string_view name, const Value& value, const Arguments& arguments);

/// Whether strings, lists, tuples or mappings have a method of this name.
bool has_method(const Value& object, std::string_view name);
/// object.name(arguments). Error(unsupported) for a method that is not there.
Value call_method(Budget& budget, const Value& object, std::string_view name, const Arguments& arguments);

/// Whether there is a global function of this name.
bool has_function(std::string_view name);
/// A global function but namespace(). raise_exception throws Error(invalid_argument).
Value call_function(Budget& budget, std::string_view name, const Arguments& arguments);

/// An argument that must be of one type; Error(format) naming `what` if it is another.
const std::string& string_argument(const Value& value, std::string_view what);
std::int64_t integer_argument(const Value& value, std::string_view what);

/// Jinja's attribute lookup by a name with dots ("function.name"), as map and selectattr use it.
Value get_path(Budget& budget, const Value& object, const Value& path);
/// object.name for a namespace, loop or mapping; undefined where there is nothing.
Value get_attribute(Budget& budget, const Value& object, std::string_view name);

std::string to_upper(std::string_view text);
std::string to_lower(std::string_view text);
std::string replace_all(Budget& budget, std::string_view text, std::string_view from, std::string_view to,
                        std::int64_t count);

}  // namespace wick::text::jinja
