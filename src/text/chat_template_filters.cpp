// Filters and tests.
#include "text/chat_template_filters.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "core/fail.h"
#include "io/quote.h"
#include "text/unicode.h"

namespace wick::text::jinja {
namespace {

using FilterFunction = Value (*)(Budget&, const Value&, const Arguments&);

const std::vector<Value>& items_of(const Value& value, std::vector<Value>& storage, Budget& budget) {
  if (const ListData* list = value.list()) return list->items;
  return storage = iterate(budget, value);
}

bool flag(const Value* argument) { return argument != nullptr && truth(*argument); }

Value trim(Budget& budget, const Value& value, const Arguments& arguments) {
  const auto a = arguments.bind("trim", {"chars"});
  const std::string text = to_string(budget, value);
  if (a[0] == nullptr || a[0]->is<None>()) return make_string(budget, std::string(strip(text, true, true)));
  return make_string(budget, std::string(strip(text, true, true, string_argument(*a[0], "trim"))));
}

Value upper(Budget& budget, const Value& value, const Arguments& arguments) {
  arguments.bind("upper", {});
  return make_string(budget, to_upper(to_string(budget, value)));
}

Value lower(Budget& budget, const Value& value, const Arguments& arguments) {
  arguments.bind("lower", {});
  return make_string(budget, to_lower(to_string(budget, value)));
}

Value title(Budget& budget, const Value& value, const Arguments& arguments) {
  arguments.bind("title", {});
  const std::string text = to_string(budget, value);
  std::string out;
  bool start = true;
  for (std::size_t i = 0; i < text.size();) {
    const std::size_t begin = i;
    const std::uint32_t c = next_code_point(text, i);
    const std::string_view character = std::string_view(text).substr(begin, i - begin);
    const bool separator =
        is_space(c) || (c < 0x80 && std::string_view("-({[<").find(static_cast<char>(c)) != std::string_view::npos);
    out += start ? to_upper(character) : to_lower(character);
    start = separator;
  }
  return make_string(budget, std::move(out));
}

Value capitalize(Budget& budget, const Value& value, const Arguments& arguments) {
  arguments.bind("capitalize", {});
  const std::string text = to_string(budget, value);
  std::size_t first = 0;
  if (!text.empty()) next_code_point(text, first);
  return make_string(budget, to_upper(text.substr(0, first)) + to_lower(text.substr(first)));
}

Value length_of(Budget& budget, const Value& value, const Arguments& arguments) {
  arguments.bind("length", {});
  return Value::integer(static_cast<std::int64_t>(length(budget, value)));
}

Value join(Budget& budget, const Value& value, const Arguments& arguments) {
  const auto a = arguments.bind("join", {"d", "attribute"});
  const std::string separator = a[0] == nullptr ? "" : to_string(budget, *a[0]);
  std::vector<Value> storage;
  std::string out;
  bool first = true;
  for (const Value& item : items_of(value, storage, budget)) {
    budget.spend(separator.size());
    if (!std::exchange(first, false)) out += separator;
    out += to_string(budget, a[1] == nullptr ? item : get_path(budget, item, *a[1]));
  }
  return make_string(budget, std::move(out));
}

Value default_to(Budget& budget, const Value& value, const Arguments& arguments) {
  const auto a = arguments.bind("default", {"default_value", "boolean"});
  if (!value.is<Undefined>() && (!flag(a[1]) || truth(value))) return value;
  return a[0] == nullptr ? make_string(budget, "") : *a[0];
}

Value first(Budget& budget, const Value& value, const Arguments& arguments) {
  arguments.bind("first", {});
  std::vector<Value> storage;
  const auto& items = items_of(value, storage, budget);
  return items.empty() ? Value{} : items.front();
}

Value last(Budget& budget, const Value& value, const Arguments& arguments) {
  arguments.bind("last", {});
  std::vector<Value> storage;
  const auto& items = items_of(value, storage, budget);
  return items.empty() ? Value{} : items.back();
}

Value replace(Budget& budget, const Value& value, const Arguments& arguments) {
  const auto a = arguments.bind("replace", {"old", "new", "count"}, 2);
  const std::int64_t count = a[2] == nullptr || a[2]->is<None>() ? -1 : integer_argument(*a[2], "replace");
  return make_string(budget, replace_all(budget, to_string(budget, value), string_argument(*a[0], "replace"),
                                         string_argument(*a[1], "replace"), count));
}

Value to_list(Budget& budget, const Value& value, const Arguments& arguments) {
  arguments.bind("list", {});
  return make_list(budget, iterate(budget, value));
}

Value to_text(Budget& budget, const Value& value, const Arguments& arguments) {
  arguments.bind("string", {});
  return value.string() != nullptr ? value : make_string(budget, to_string(budget, value));
}

std::optional<double> parse_number(std::string_view text) {
  text = strip(text, true, true);
  if (text.starts_with('+')) text.remove_prefix(1);
  double number = 0;
  const auto result = std::from_chars(text.data(), text.data() + text.size(), number);
  if (text.empty() || result.ec != std::errc{} || result.ptr != text.data() + text.size()) return std::nullopt;
  return number;
}

Value to_int(Budget&, const Value& value, const Arguments& arguments) {
  const auto a = arguments.bind("int", {"default", "base"});
  if (a[1] != nullptr) fail(ErrorCode::unsupported, "the filter int with a base is not supported");
  const Value fallback = a[0] == nullptr ? Value::integer(0) : *a[0];
  if (const auto integer = value.as_integer()) return Value::integer(*integer);
  std::optional<double> number = value.as_number();
  if (const std::string* text = value.string()) {
    const std::string_view digits = strip(*text, true, true);
    std::int64_t integer = 0;
    const auto result = std::from_chars(digits.data(), digits.data() + digits.size(), integer);
    if (!digits.empty() && result.ec == std::errc{} && result.ptr == digits.data() + digits.size()) {
      return Value::integer(integer);
    }
    number = parse_number(*text);
  }
  if (!number || !std::isfinite(*number)) return fallback;
  if (std::abs(*number) >= 9.2e18) fail(ErrorCode::unsupported, "an integer beyond 64 bits is not supported");
  return Value::integer(static_cast<std::int64_t>(*number));
}

Value to_float(Budget&, const Value& value, const Arguments& arguments) {
  const auto a = arguments.bind("float", {"default"});
  if (const auto number = value.as_number()) return Value::number(*number);
  const auto number = value.string() != nullptr ? parse_number(*value.string()) : std::nullopt;
  if (number) return Value::number(*number);
  return a[0] == nullptr ? Value::number(0) : *a[0];
}

Value absolute(Budget& budget, const Value& value, const Arguments& arguments) {
  arguments.bind("abs", {});
  if (!value.as_number()) fail(ErrorCode::format, "abs of {}, expected a number", type_name(value));
  return compare(budget, value, Value::integer(0)) < 0 ? negate(value) : value;
}

Value items(Budget& budget, const Value& value, const Arguments& arguments) {
  arguments.bind("items", {});
  if (value.is<Undefined>()) return make_list(budget, {});
  if (value.dict() == nullptr) fail(ErrorCode::format, "items of {}, expected a mapping", type_name(value));
  return call_method(budget, value, "items", {});
}

// Python's sorted(); `key` gives what an item is ordered by.
template <class Key>
void sort_by(Budget& budget, std::vector<Value>& items, bool case_sensitive, bool reverse, Key&& key) {
  std::vector<std::pair<Value, Value>> keyed;
  for (Value& item : items) {
    Value by = key(item);
    if (!case_sensitive && by.string() != nullptr) by = make_string(budget, to_lower(*by.string()));
    keyed.emplace_back(std::move(by), std::move(item));
  }
  std::stable_sort(keyed.begin(), keyed.end(), [&](const auto& a, const auto& b) {
    return reverse ? compare(budget, b.first, a.first) < 0 : compare(budget, a.first, b.first) < 0;
  });
  for (std::size_t i = 0; i < items.size(); ++i) items[i] = std::move(keyed[i].second);
}

Value dictsort(Budget& budget, const Value& value, const Arguments& arguments) {
  const auto a = arguments.bind("dictsort", {"case_sensitive", "by", "reverse"});
  if (value.dict() == nullptr) fail(ErrorCode::format, "dictsort of {}, expected a mapping", type_name(value));
  const std::string by = a[1] == nullptr ? "key" : string_argument(*a[1], "dictsort");
  if (by != "key" && by != "value") fail(ErrorCode::format, "dictsort by {}, expected key or value", quote(by, 60));
  std::vector<Value> pairs = iterate(budget, call_method(budget, value, "items", {}));
  sort_by(budget, pairs, flag(a[0]), flag(a[2]),
          [&](const Value& pair) { return pair.list()->items[by == "key" ? 0 : 1]; });
  return make_list(budget, std::move(pairs));
}

Value sort(Budget& budget, const Value& value, const Arguments& arguments) {
  const auto a = arguments.bind("sort", {"reverse", "case_sensitive", "attribute"});
  std::vector<Value> out = iterate(budget, value);
  sort_by(budget, out, flag(a[1]), flag(a[0]),
          [&](const Value& item) { return a[2] == nullptr ? item : get_path(budget, item, *a[2]); });
  return make_list(budget, std::move(out));
}

Value unique(Budget& budget, const Value& value, const Arguments& arguments) {
  const auto a = arguments.bind("unique", {"case_sensitive", "attribute"});
  std::vector<Value> keys;
  std::vector<Value> out;
  for (Value& item : iterate(budget, value)) {
    Value key = a[1] == nullptr ? item : get_path(budget, item, *a[1]);
    if (!flag(a[0]) && key.string() != nullptr) key = make_string(budget, to_lower(*key.string()));
    if (std::any_of(keys.begin(), keys.end(), [&](const Value& known) { return equals(budget, known, key); })) continue;
    keys.push_back(std::move(key));
    out.push_back(std::move(item));
  }
  return make_list(budget, std::move(out));
}

Value reverse(Budget& budget, const Value& value, const Arguments& arguments) {
  arguments.bind("reverse", {});
  const Value backward = Value::integer(-1);
  if (value.string() != nullptr) return slice(budget, value, Value::none(), Value::none(), backward);
  std::vector<Value> out = iterate(budget, value);
  std::reverse(out.begin(), out.end());
  return make_list(budget, std::move(out));
}

Value sum(Budget& budget, const Value& value, const Arguments& arguments) {
  const auto a = arguments.bind("sum", {"attribute", "start"});
  Value out = a[1] == nullptr ? Value::integer(0) : *a[1];
  for (const Value& item : iterate(budget, value)) {
    out = arithmetic(budget, "+", out, a[0] == nullptr || a[0]->is<None>() ? item : get_path(budget, item, *a[0]));
  }
  return out;
}

Value tojson(Budget& budget, const Value& value, const Arguments& arguments) {
  const auto a = arguments.bind("tojson", {"ensure_ascii", "indent", "separators", "sort_keys"});
  JsonStyle style;
  style.ensure_ascii = flag(a[0]);
  style.sort_keys = flag(a[3]);
  if (a[1] != nullptr && !a[1]->is<None>()) {
    if (a[1]->string() != nullptr) {
      style.indent = *a[1]->string();
    } else {
      const auto width = static_cast<std::size_t>(std::max<std::int64_t>(integer_argument(*a[1], "tojson"), 0));
      budget.spend(width);
      style.indent = std::string(width, ' ');
    }
    style.item_separator = ",";
  }
  if (a[2] != nullptr && !a[2]->is<None>()) {
    const std::vector<Value> separators = iterate(budget, *a[2]);
    if (separators.size() != 2) fail(ErrorCode::format, "tojson with {} separators, expected 2", separators.size());
    style.item_separator = string_argument(separators[0], "tojson");
    style.key_separator = string_argument(separators[1], "tojson");
  }
  return make_string(budget, to_json(budget, value, style));
}

Value indent(Budget& budget, const Value& value, const Arguments& arguments) {
  const auto a = arguments.bind("indent", {"width", "first", "blank"});
  std::string margin(4, ' ');
  if (a[0] != nullptr && a[0]->string() != nullptr) {
    margin = *a[0]->string();
  } else if (a[0] != nullptr) {
    const auto width = static_cast<std::size_t>(std::max<std::int64_t>(integer_argument(*a[0], "indent"), 0));
    budget.spend(width);
    margin.assign(width, ' ');
  }
  const std::string text = to_string(budget, value);
  std::string out;
  std::size_t at = 0;
  for (bool start = true; start || at < text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    const bool blank = end == at;
    if (!start) out += '\n';
    if (start ? flag(a[1]) : (!blank || flag(a[2]))) {
      budget.spend(margin.size());
      out += margin;
    }
    out.append(text, at, end - at);
    start = false;
    at = end + 1;
    if (end + 1 == text.size()) {  // a newline at the end: an empty last line
      out += '\n';
      if (flag(a[2])) out += margin;
    }
  }
  return make_string(budget, std::move(out));
}

Value map(Budget& budget, const Value& value, const Arguments& arguments) {
  std::vector<Value> out = iterate(budget, value);
  if (arguments.positional.empty()) {
    const Value* attribute = nullptr;
    const Value* fallback = nullptr;
    for (const auto& [name, given] : arguments.keywords) (name == "attribute" ? attribute : fallback) = &given;
    if (attribute == nullptr) fail(ErrorCode::format, "map without the name of a filter or an attribute");
    for (Value& item : out) {
      item = get_path(budget, item, *attribute);
      if (item.is<Undefined>() && fallback != nullptr) item = *fallback;
    }
  } else {
    Arguments rest = arguments;
    const std::string name = string_argument(arguments.positional.front(), "map");
    rest.positional.erase(rest.positional.begin());
    for (Value& item : out) item = apply_filter(budget, name, item, rest);
  }
  return make_list(budget, std::move(out));
}

Value choose(Budget& budget, const Value& value, const Arguments& arguments, bool by_attribute, bool keep) {
  Arguments rest = arguments;
  const auto take = [&rest] {
    Value out = rest.positional.front();
    rest.positional.erase(rest.positional.begin());
    return out;
  };
  Value attribute;
  if (by_attribute) {
    if (rest.positional.empty()) fail(ErrorCode::format, "selectattr or rejectattr without the name of an attribute");
    attribute = take();
  }
  const std::string test = rest.positional.empty() ? "" : string_argument(take(), "a filter's test");
  std::vector<Value> out;
  for (Value& item : iterate(budget, value)) {
    const Value subject = by_attribute ? get_path(budget, item, attribute) : item;
    const bool holds = test.empty() ? truth(subject) : apply_test(budget, test, subject, rest);
    if (holds == keep) out.push_back(std::move(item));
  }
  return make_list(budget, std::move(out));
}

constexpr std::pair<std::string_view, FilterFunction> kFilters[] = {
    {"abs", absolute},
    {"capitalize", capitalize},
    {"count", length_of},
    {"d", default_to},
    {"default", default_to},
    {"dictsort", dictsort},
    {"first", first},
    {"float", to_float},
    {"indent", indent},
    {"int", to_int},
    {"items", items},
    {"join", join},
    {"last", last},
    {"length", length_of},
    {"list", to_list},
    {"lower", lower},
    {"map", map},
    {"reject", [](Budget& b, const Value& v, const Arguments& a) { return choose(b, v, a, false, false); }},
    {"rejectattr", [](Budget& b, const Value& v, const Arguments& a) { return choose(b, v, a, true, false); }},
    {"replace", replace},
    {"reverse", reverse},
    {"safe", to_text},
    {"select", [](Budget& b, const Value& v, const Arguments& a) { return choose(b, v, a, false, true); }},
    {"selectattr", [](Budget& b, const Value& v, const Arguments& a) { return choose(b, v, a, true, true); }},
    {"sort", sort},
    {"string", to_text},
    {"sum", sum},
    {"title", title},
    {"tojson", tojson},
    {"trim", trim},
    {"unique", unique},
    {"upper", upper},
};

// The order or equality that a test such as "gt" or ">=" asks for; nothing for another name.
std::optional<bool> compare_test(Budget& budget, std::string_view name, const Value& value, const Value* other) {
  constexpr std::pair<std::string_view, std::string_view> kNames[] = {
      {"==", "=="}, {"eq", "=="}, {"equalto", "=="}, {"!=", "!="}, {"ne", "!="},
      {">", ">"},   {"gt", ">"},  {"ge", ">="},      {">=", ">="}, {"greaterthan", ">"},
      {"<", "<"},   {"lt", "<"},  {"lessthan", "<"}, {"le", "<="}, {"<=", "<="}};
  const auto* known =
      std::find_if(std::begin(kNames), std::end(kNames), [&](const auto& k) { return k.first == name; });
  if (known == std::end(kNames)) return std::nullopt;
  if (other == nullptr) fail(ErrorCode::format, "the test {} without its argument", name);
  if (known->second == "==") return equals(budget, value, *other);
  if (known->second == "!=") return !equals(budget, value, *other);
  const int order = compare(budget, value, *other);
  if (known->second == ">") return order > 0;
  if (known->second == ">=") return order >= 0;
  return known->second == "<" ? order < 0 : order <= 0;
}

}  // namespace

Value apply_filter(Budget& budget, std::string_view name, const Value& value, const Arguments& arguments) {
  budget.spend(Budget::kStep);
  for (const auto& [known, function] : kFilters) {
    if (known == name) return function(budget, value, arguments);
  }
  fail(ErrorCode::unsupported, "the filter {} is not supported", quote(name, 60));
}

bool apply_test(Budget& budget, std::string_view name, const Value& value, const Arguments& arguments) {
  budget.spend(Budget::kStep);
  const Value* other = arguments.positional.empty() ? nullptr : &arguments.positional.front();
  const bool boolean = value.is<bool>();
  const bool whole = value.is<std::int64_t>();
  const bool sized = value.string() || value.list() || value.dict() || value.is<Undefined>();
  if (name == "defined") return !value.is<Undefined>();
  if (name == "undefined") return value.is<Undefined>();
  if (name == "none") return value.is<None>();
  if (name == "string") return value.string() != nullptr;
  if (name == "mapping") return value.dict() != nullptr;
  if (name == "sequence") return sized;
  if (name == "iterable") return sized || value.is<LoopData*>();
  if (name == "number") return value.as_number().has_value();
  if (name == "integer") return whole;
  if (name == "float") return value.is<double>();
  if (name == "boolean") return boolean;
  if (name == "true") return boolean && truth(value);
  if (name == "false") return boolean && !truth(value);
  if (name == "callable") return value.is<Function>() || value.is<const MacroData*>();
  if (name == "lower") return to_lower(to_string(budget, value)) == to_string(budget, value);
  if (name == "upper") return to_upper(to_string(budget, value)) == to_string(budget, value);
  if (name == "odd" || name == "even") {
    return (integer_argument(value, "a test for odd or even") % 2 != 0) == (name == "odd");
  }
  if (name == "divisibleby" || name == "in") {
    if (other == nullptr) fail(ErrorCode::format, "the test {} without its argument", name);
    if (name == "in") return contains(budget, *other, value);
    return equals(budget, arithmetic(budget, "%", value, *other), Value::integer(0));
  }
  if (const auto result = compare_test(budget, name, value, other)) return *result;
  fail(ErrorCode::unsupported, "the test {} is not supported", quote(name, 60));
}

}  // namespace wick::text::jinja
