// Arguments, attributes, methods and global functions.
#include <utf8proc.h>

#include <algorithm>
#include <ctime>

#include "core/fail.h"
#include "io/quote.h"
#include "text/chat_template_filters.h"
#include "text/unicode.h"

namespace wick::text::jinja {
namespace {

template <class Map>
std::string map_characters(std::string_view text, Map&& map) {
  std::string out;
  out.reserve(text.size());
  for (std::size_t i = 0; i < text.size();) {
    append_utf8(out, static_cast<std::uint32_t>(map(static_cast<utf8proc_int32_t>(next_code_point(text, i)))));
  }
  return out;
}

bool is_given(const Value* argument) { return argument != nullptr && !argument->is<None>(); }

std::vector<std::string_view> split_on_space(std::string_view text, std::int64_t limit, bool from_right) {
  std::vector<std::string_view> parts;
  text = strip(text, !from_right, from_right);
  while (!text.empty()) {
    if (limit >= 0 && parts.size() == static_cast<std::size_t>(limit)) {
      parts.push_back(text);
      break;
    }
    std::size_t cut = from_right ? 0 : text.size();  // where the part at that end of the text ends
    for (std::size_t i = 0; i < text.size();) {
      const std::size_t begin = i;
      if (!is_space(next_code_point(text, i))) continue;
      cut = from_right ? i : begin;
      if (!from_right) break;
    }
    parts.push_back(from_right ? text.substr(cut) : text.substr(0, cut));
    text = from_right ? strip(text.substr(0, cut), false, true) : strip(text.substr(cut), true, false);
  }
  return parts;
}

std::vector<std::string_view> split_on(std::string_view text, std::string_view separator, std::int64_t limit,
                                       bool from_right) {
  std::vector<std::string_view> parts;
  while (limit < 0 || parts.size() < static_cast<std::size_t>(limit)) {
    const std::size_t at = from_right ? text.rfind(separator) : text.find(separator);
    if (at == std::string_view::npos) break;
    parts.push_back(from_right ? text.substr(at + separator.size()) : text.substr(0, at));
    text = from_right ? text.substr(0, at) : text.substr(at + separator.size());
  }
  parts.push_back(text);
  return parts;
}

Value split(Budget& budget, std::string_view text, const Arguments& arguments, bool from_right) {
  const auto a = arguments.bind("split", {"sep", "maxsplit"});
  const std::int64_t limit = is_given(a[1]) ? integer_argument(*a[1], "split") : -1;
  budget.spend(text.size() * 2);
  std::vector<std::string_view> parts;
  if (is_given(a[0])) {
    const std::string& separator = string_argument(*a[0], "split");
    if (separator.empty()) fail(ErrorCode::format, "split at an empty string");
    // Every part costs a value of its own, and there can be as many as separators.
    budget.spend(text.size() / separator.size() * 16);
    parts = split_on(text, separator, limit, from_right);
  } else {
    // From the right, every step searches the text from its start.
    if (from_right && text.size() > 4096) fail(ErrorCode::unsupported, "rsplit() of a long text is not supported");
    parts = split_on_space(text, limit, from_right);
  }
  if (from_right) std::reverse(parts.begin(), parts.end());
  budget.spend(parts.size() * 64);
  std::vector<Value> out;
  for (const std::string_view part : parts) out.push_back(make_string(budget, std::string(part)));
  return make_list(budget, std::move(out));
}

bool starts_or_ends(const std::string& text, const Value& part, bool start) {
  if (const ListData* list = part.list(); list != nullptr && list->tuple) {
    return std::any_of(list->items.begin(), list->items.end(),
                       [&](const Value& item) { return starts_or_ends(text, item, start); });
  }
  const std::string& affix = string_argument(part, start ? "startswith" : "endswith");
  return start ? text.starts_with(affix) : text.ends_with(affix);
}

Value call_string_method(Budget& budget, const Value& object, std::string_view name, const Arguments& arguments) {
  const std::string& text = *object.string();
  budget.spend(text.size());
  if (name == "strip" || name == "lstrip" || name == "rstrip") {
    const auto a = arguments.bind(name, {"chars"});
    std::optional<std::string_view> characters;
    if (is_given(a[0])) characters = string_argument(*a[0], name);
    return make_string(budget, std::string(strip(text, name != "rstrip", name != "lstrip", characters)));
  }
  if (name == "split" || name == "rsplit") return split(budget, text, arguments, name == "rsplit");
  if (name == "startswith" || name == "endswith") {
    return Value::of(starts_or_ends(text, *arguments.bind(name, {"affix"}, 1)[0], name == "startswith"));
  }
  if (name == "replace") {
    const auto a = arguments.bind(name, {"old", "new", "count"}, 2);
    const std::int64_t count = is_given(a[2]) ? integer_argument(*a[2], name) : -1;
    return make_string(budget,
                       replace_all(budget, text, string_argument(*a[0], name), string_argument(*a[1], name), count));
  }
  if (name == "removeprefix" || name == "removesuffix") {
    const std::string& affix = string_argument(*arguments.bind(name, {"affix"}, 1)[0], name);
    if (name == "removeprefix" && text.starts_with(affix)) return make_string(budget, text.substr(affix.size()));
    if (name == "removesuffix" && text.ends_with(affix)) {
      return make_string(budget, text.substr(0, text.size() - affix.size()));
    }
    return object;
  }
  if (name == "find" || name == "count") {
    const std::string& part = string_argument(*arguments.bind(name, {"sub"}, 1)[0], name);
    if (name == "count") {
      if (part.empty()) return Value::integer(static_cast<std::int64_t>(length(budget, object)) + 1);
      return Value::integer(static_cast<std::int64_t>(split_on(text, part, -1, false).size()) - 1);
    }
    const std::size_t at = text.find(part);
    if (at == std::string::npos) return Value::integer(-1);
    return Value::integer(static_cast<std::int64_t>(character_starts(budget, text.substr(0, at)).size()) - 1);
  }
  if (name == "join") {
    Arguments separator{{object}, {}};
    return apply_filter(budget, name, *arguments.bind(name, {"iterable"}, 1)[0], separator);
  }
  return apply_filter(budget, name, object, arguments);  // upper, lower, capitalize
}

Value call_dict_method(Budget& budget, const DictData& dict, const Value& object, std::string_view name,
                       const Arguments& arguments) {
  if (name == "get") {
    const auto a = arguments.bind(name, {"key", "default"}, 1);
    if (const Value* value = find(budget, dict, *a[0])) return *value;
    return a[1] == nullptr ? Value::none() : *a[1];
  }
  arguments.bind(name, {});
  if (name == "copy") return object;
  budget.spend(dict.items.size() * 2 * sizeof(Value));
  std::vector<Value> out;
  for (const auto& [key, value] : dict.items) {
    out.push_back(name == "keys" ? key : name == "values" ? value : make_list(budget, {key, value}, true));
  }
  return make_list(budget, std::move(out));
}

Value call_list_method(Budget& budget, const ListData& list, std::string_view name, const Arguments& arguments) {
  const Value& item = *arguments.bind(name, {"value"}, 1)[0];
  std::int64_t count = 0;
  for (std::size_t i = 0; i < list.items.size(); ++i) {
    if (!equals(budget, list.items[i], item)) continue;
    if (name == "index") return Value::integer(static_cast<std::int64_t>(i));
    ++count;
  }
  if (name == "index") fail(ErrorCode::format, "index() of a value that is not in the list");
  return Value::integer(count);
}

Value range(Budget& budget, const Arguments& arguments) {
  constexpr std::int64_t kMaxRange = 100000;  // as Jinja's sandbox has it
  const std::vector<Value>& given = arguments.positional;
  if (given.empty() || given.size() > 3 || !arguments.keywords.empty()) {
    fail(ErrorCode::format, "range() of {} arguments, expected 1 to 3", given.size());
  }
  const auto argument = [&](std::size_t i) { return integer_argument(given[i], "range"); };
  const std::int64_t start = given.size() == 1 ? 0 : argument(0);
  const std::int64_t stop = argument(given.size() == 1 ? 0 : 1);
  const std::int64_t step = given.size() == 3 ? argument(2) : 1;
  if (step == 0) fail(ErrorCode::format, "range() with a step of zero");
  std::vector<Value> out;
  for (std::int64_t at = start; step > 0 ? at < stop : at > stop;) {
    if (out.size() == static_cast<std::size_t>(kMaxRange)) {
      fail(ErrorCode::format, "range() of more than {} numbers", kMaxRange);
    }
    out.push_back(Value::integer(at));
    if (__builtin_add_overflow(at, step, &at)) break;
  }
  return make_list(budget, std::move(out));
}

// Conversion by conversion, so that nothing but a letter and a "-" reaches the C library.
std::string format_time(const std::string& format) {
  const std::time_t now = std::time(nullptr);
  std::tm time{};
  if (localtime_r(&now, &time) == nullptr) fail(ErrorCode::io, "the system has no local time");
  std::string out;
  for (std::size_t i = 0; i < format.size(); ++i) {
    if (format[i] != '%') {
      out += format[i];
      continue;
    }
    std::string conversion = "%";
    if (++i < format.size() && format[i] == '-') conversion += format[i++];
    const char letter = i < format.size() ? format[i] : '\0';
    constexpr std::string_view kLetters = "aAbBcdDeFGhHIjmMpSTuUVwWxXyYzZ%";
    if (letter == '\0' || kLetters.find(letter) == std::string_view::npos) {
      fail(ErrorCode::unsupported, "strftime_now() with {} is not supported", quote(format, 60));
    }
    conversion += letter;
    char text[128];
    out.append(text, std::strftime(text, sizeof text, conversion.c_str(), &time));
  }
  return out;
}

Value loop_attribute(Budget& budget, const LoopData& loop, std::string_view name) {
  const std::vector<Value>& items = loop.items->items;
  const auto number = [](std::size_t n) { return Value::integer(static_cast<std::int64_t>(n)); };
  budget.spend(1);
  if (name == "index") return number(loop.index + 1);
  if (name == "index0") return number(loop.index);
  if (name == "revindex") return number(items.size() - loop.index);
  if (name == "revindex0") return number(items.size() - loop.index - 1);
  if (name == "first") return Value::of(loop.index == 0);
  if (name == "last") return Value::of(loop.index + 1 == items.size());
  if (name == "length") return number(items.size());
  if (name == "depth") return number(1);  // only recursive loops go deeper
  if (name == "depth0") return number(0);
  if (name == "previtem") return loop.index == 0 ? Value{} : items[loop.index - 1];
  if (name == "nextitem") return loop.index + 1 < items.size() ? items[loop.index + 1] : Value{};
  fail(ErrorCode::unsupported, "loop.{} is not supported", quote(name, 60));
}

constexpr std::string_view kStringMethods[] = {
    "strip",        "lstrip",       "rstrip", "split", "rsplit", "startswith", "endswith", "replace",
    "removeprefix", "removesuffix", "find",   "count", "join",   "upper",      "lower",    "capitalize"};
constexpr std::string_view kDictMethods[] = {"get", "items", "keys", "values", "copy"};
constexpr std::string_view kListMethods[] = {"index", "count"};
constexpr std::string_view kFunctions[] = {"range", "namespace", "dict", "raise_exception", "strftime_now"};

template <class Names>
const std::string_view* find_name(const Names& names, std::string_view name) {
  const auto* at = std::find(std::begin(names), std::end(names), name);
  return at == std::end(names) ? nullptr : at;
}

}  // namespace

std::vector<const Value*> Arguments::bind(std::string_view what, std::initializer_list<std::string_view> parameters,
                                          std::size_t required) const {
  if (positional.size() > parameters.size()) {
    fail(ErrorCode::format, "{} takes at most {} arguments, found {}", what, parameters.size(), positional.size());
  }
  std::vector<const Value*> out(parameters.size(), nullptr);
  for (std::size_t i = 0; i < positional.size(); ++i) out[i] = &positional[i];
  for (const auto& [name, value] : keywords) {
    const auto at =
        static_cast<std::size_t>(std::find(parameters.begin(), parameters.end(), name) - parameters.begin());
    if (at == parameters.size() || out[at] != nullptr) {
      fail(ErrorCode::format, "{} takes no argument {}{}", what, quote(name, 60), at < out.size() ? " twice" : "");
    }
    out[at] = &value;
  }
  for (std::size_t i = 0; i < required; ++i) {
    if (out[i] == nullptr) fail(ErrorCode::format, "{} without its argument {}", what, parameters.begin()[i]);
  }
  return out;
}

bool has_method(const Value& object, std::string_view name) {
  if (object.string()) return find_name(kStringMethods, name) != nullptr;
  if (object.dict()) return find_name(kDictMethods, name) != nullptr;
  return object.list() != nullptr && find_name(kListMethods, name) != nullptr;
}

Value call_method(Budget& budget, const Value& object, std::string_view name, const Arguments& arguments) {
  budget.spend(Budget::kStep);
  if (!has_method(object, name)) {
    fail(ErrorCode::unsupported, "the method {} of {} is not supported", quote(name, 60), type_name(object));
  }
  if (object.string() != nullptr) return call_string_method(budget, object, name, arguments);
  if (const DictData* dict = object.dict()) return call_dict_method(budget, *dict, object, name, arguments);
  return call_list_method(budget, *object.list(), name, arguments);
}

bool has_function(std::string_view name) { return find_name(kFunctions, name) != nullptr; }

Value call_function(Budget& budget, std::string_view name, const Arguments& arguments) {
  if (name == "range") return range(budget, arguments);
  if (name == "raise_exception") {
    const std::string message = to_string(budget, *arguments.bind(name, {"message"}, 1)[0]);
    fail(ErrorCode::invalid_argument, "the template refuses the conversation: {}", quote(message, 500));
  }
  if (name == "strftime_now") {
    const std::string& format = string_argument(*arguments.bind(name, {"format"}, 1)[0], name);
    budget.spend(format.size() * 128);
    return make_string(budget, format_time(format));
  }
  if (name == "dict") {
    if (!arguments.positional.empty()) fail(ErrorCode::unsupported, "dict() of a value is not supported");
    std::vector<std::pair<Value, Value>> items;
    for (const auto& [key, value] : arguments.keywords) items.emplace_back(Value::of(key), value);
    return make_dict(budget, std::move(items));
  }
  fail(ErrorCode::unsupported, "a call of the method {} apart from its value is not supported", quote(name, 60));
}

const std::string& string_argument(const Value& value, std::string_view what) {
  if (value.string() == nullptr) fail(ErrorCode::format, "{}: found {}, expected a string", what, type_name(value));
  return *value.string();
}

std::int64_t integer_argument(const Value& value, std::string_view what) {
  const auto integer = value.as_integer();
  if (!integer) fail(ErrorCode::format, "{}: found {}, expected an integer", what, type_name(value));
  return *integer;
}

Value get_path(Budget& budget, const Value& object, const Value& path) {
  const std::string* name = path.string();
  if (name == nullptr) return subscript(budget, object, path);
  Value value = object;
  for (std::size_t at = 0; at <= name->size();) {
    const std::size_t dot = std::min(name->find('.', at), name->size());
    const std::string_view part = std::string_view(*name).substr(at, dot - at);
    if (value.is<Undefined>()) fail(ErrorCode::format, "cannot read {} of an undefined value", quote(part, 60));
    const bool digits = !part.empty() && part.size() < 10 && part.find_first_not_of("0123456789") == std::string::npos;
    value = digits ? subscript(budget, value, Value::integer(std::stoll(std::string(part))))
                   : get_attribute(budget, value, part);
    at = dot + 1;
  }
  return value;
}

Value get_attribute(Budget& budget, const Value& object, std::string_view name) {
  if (const DictData* dict = object.dict()) {
    const Value* value = find(budget, *dict, name);
    return value == nullptr ? Value{} : *value;
  }
  if (object.is<LoopData*>()) return loop_attribute(budget, *std::get<LoopData*>(object.data), name);
  if (object.is<NamespaceData*>()) {
    const auto& attributes = std::get<NamespaceData*>(object.data)->attributes;
    const auto at = attributes.find(name);
    return at == attributes.end() ? Value{} : at->second;
  }
  return {};
}

std::string to_upper(std::string_view text) { return map_characters(text, utf8proc_toupper); }
std::string to_lower(std::string_view text) { return map_characters(text, utf8proc_tolower); }

std::string replace_all(Budget& budget, std::string_view text, std::string_view from, std::string_view to,
                        std::int64_t count) {
  std::string out;
  std::size_t at = 0;
  const auto wanted = [&] { return count < 0 || count-- > 0; };
  budget.spend(text.size());
  if (from.empty()) {  // between all characters
    for (;;) {
      if (!wanted()) break;
      budget.spend(to.size());
      out += to;
      if (at == text.size()) return out;
      const std::size_t begin = at;
      next_code_point(text, at);
      out += text.substr(begin, at - begin);
    }
    return out += text.substr(at);
  }
  for (std::size_t hit = text.find(from); hit != std::string_view::npos && wanted(); hit = text.find(from, at)) {
    budget.spend(to.size());
    out += text.substr(at, hit - at);
    out += to;
    at = hit + from.size();
  }
  return out += text.substr(at);
}

}  // namespace wick::text::jinja
