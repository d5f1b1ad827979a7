// Values as text: Python's str(), repr() and json.dumps(), and JSON text as values.
#include <simdjson.h>
#include <utf8proc.h>

#include <algorithm>
#include <cmath>

#include "core/fail.h"
#include "io/json.h"
#include "io/json_string.h"
#include "text/chat_template_value.h"
#include "text/unicode.h"

namespace wick::text::jinja {
namespace {

namespace dom = simdjson::dom;

bool is_printable(std::uint32_t code_point) {
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(code_point))) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
      return false;
    case UTF8PROC_CATEGORY_ZS:
      return code_point == ' ';
    default:
      return true;
  }
}

std::string repr(std::string_view text) {
  const bool double_quotes = text.find('\'') != std::string_view::npos && text.find('"') == std::string_view::npos;
  const char quote = double_quotes ? '"' : '\'';
  std::string out(1, quote);
  for (std::size_t i = 0; i < text.size();) {
    const std::uint32_t c = next_code_point(text, i);
    if (c == '\n') {
      out += "\\n";
    } else if (c == '\r') {
      out += "\\r";
    } else if (c == '\t') {
      out += "\\t";
    } else if (c == '\\' || c == static_cast<unsigned char>(quote)) {
      out += '\\';
      out += static_cast<char>(c);
    } else if (is_printable(c)) {
      append_utf8(out, c);
    } else if (c < 0x100) {
      out += fmt::format("\\x{:02x}", c);
    } else {
      out += c < 0x10000 ? fmt::format("\\u{:04x}", c) : fmt::format("\\U{:08x}", c);
    }
  }
  return out + quote;
}

void append_repr(Budget& budget, std::string& out, const Value& value) {
  const std::size_t before = out.size();
  if (const std::string* text = value.string()) {
    out += repr(*text);
  } else if (const ListData* list = value.list()) {
    out += list->tuple ? '(' : '[';
    for (std::size_t i = 0; i < list->items.size(); ++i) {
      if (i > 0) out += ", ";
      append_repr(budget, out, list->items[i]);
    }
    if (list->tuple && list->items.size() == 1) out += ',';
    out += list->tuple ? ')' : ']';
  } else if (const DictData* dict = value.dict()) {
    out += '{';
    for (std::size_t i = 0; i < dict->items.size(); ++i) {
      if (i > 0) out += ", ";
      append_repr(budget, out, dict->items[i].first);
      out += ": ";
      append_repr(budget, out, dict->items[i].second);
    }
    out += '}';
  } else if (const auto* boolean = std::get_if<bool>(&value.data)) {
    out += *boolean ? "True" : "False";
  } else if (const auto* integer = std::get_if<std::int64_t>(&value.data)) {
    out += fmt::format("{}", *integer);
  } else if (const auto* number = std::get_if<double>(&value.data)) {
    out += python_repr(*number);
  } else if (value.is<None>()) {
    out += "None";
  } else if (value.is<Undefined>()) {
    out += "Undefined";
  } else {
    fail(ErrorCode::unsupported, "{} as text is not supported", type_name(value));
  }
  budget.spend(out.size() - before + 1);
}

class JsonWriter {
 public:
  JsonWriter(Budget& budget, const JsonStyle& style) : budget_(budget), style_(style) {}

  std::string run(const Value& value) {
    append(value, 0);
    return std::move(out_);
  }

 private:
  void append(const Value& value, std::size_t level) {
    const std::size_t before = out_.size();
    if (const std::string* text = value.string()) {
      append_string(*text);
    } else if (const ListData* list = value.list()) {
      append_all('[', list->items, ']', level, [&](const Value& item) { append(item, level + 1); });
    } else if (const DictData* dict = value.dict()) {
      auto items = dict->items;
      if (style_.sort_keys) {
        std::stable_sort(items.begin(), items.end(),
                         [&](const auto& a, const auto& b) { return compare(budget_, a.first, b.first) < 0; });
      }
      append_all('{', items, '}', level, [&](const auto& item) {
        append_string(key_text(item.first));
        out_ += style_.key_separator;
        append(item.second, level + 1);
      });
    } else {
      out_ += scalar(value);
    }
    budget_.spend(out_.size() - before + 1);
  }

  template <class Items, class Append>
  void append_all(char open, const Items& items, char close, std::size_t level, Append&& append_item) {
    out_ += open;
    bool first = true;
    for (const auto& item : items) {
      if (!std::exchange(first, false)) out_ += style_.item_separator;
      new_line(level + 1);
      append_item(item);
    }
    if (!first) new_line(level);
    out_ += close;
  }

  void new_line(std::size_t level) {
    if (!style_.indent) return;
    budget_.spend(style_.indent->size() * level);
    out_ += '\n';
    for (std::size_t i = 0; i < level; ++i) out_ += *style_.indent;
  }

  static std::string scalar(const Value& value) {
    if (value.is<None>()) return "null";
    if (const auto* boolean = std::get_if<bool>(&value.data)) return *boolean ? "true" : "false";
    if (const auto* integer = std::get_if<std::int64_t>(&value.data)) return fmt::format("{}", *integer);
    if (const auto* number = std::get_if<double>(&value.data)) {
      if (std::isnan(*number)) return "NaN";
      if (std::isinf(*number)) return *number > 0 ? "Infinity" : "-Infinity";
      return python_repr(*number);
    }
    fail(ErrorCode::format, "tojson of {}, expected a value that JSON has", type_name(value));
  }

  static std::string key_text(const Value& key) { return key.string() != nullptr ? *key.string() : scalar(key); }

  void append_string(std::string_view text) {
    append_json_string(out_, text, style_.ensure_ascii ? JsonEscapes::ascii : JsonEscapes::needed);
  }

  Budget& budget_;
  const JsonStyle& style_;
  std::string out_;
};

// The parser bounds the nesting, make_list and make_dict bound it further.
Value convert(Budget& budget, dom::element element) {
  budget.spend(Budget::kStep);
  switch (element.type()) {
    case dom::element_type::ARRAY: {
      std::vector<Value> items;
      for (const dom::element item : dom::array(element)) items.push_back(convert(budget, item));
      return make_list(budget, std::move(items));
    }
    case dom::element_type::OBJECT: {
      std::vector<std::pair<Value, Value>> items;
      for (const dom::key_value_pair item : dom::object(element)) {
        Value key = make_string(budget, std::string(item.key));
        items.emplace_back(std::move(key), convert(budget, item.value));
      }
      return make_dict(budget, std::move(items));
    }
    case dom::element_type::INT64:
      return Value::integer(std::int64_t(element));
    case dom::element_type::UINT64:
      fail(ErrorCode::unsupported, "an integer of 64 bits without a sign");
    case dom::element_type::DOUBLE:
      return Value::number(double(element));
    case dom::element_type::STRING:
      return make_string(budget, std::string(std::string_view(element)));
    case dom::element_type::BOOL:
      return Value::of(bool(element));
    default:
      return Value::none();
  }
}

}  // namespace

std::string to_string(Budget& budget, const Value& value) {
  if (const std::string* text = value.string()) {
    budget.spend(text->size());
    return *text;
  }
  return value.is<Undefined>() ? "" : to_repr(budget, value);
}

std::string to_repr(Budget& budget, const Value& value) {
  std::string out;
  append_repr(budget, out, value);
  return out;
}

std::string to_json(Budget& budget, const Value& value, const JsonStyle& style) {
  return JsonWriter(budget, style).run(value);
}

Value from_json(Budget& budget, std::string_view json, std::string_view what) {
  constexpr std::size_t kMaxDepth = 64;
  dom::parser parser;
  dom::element root;
  if (const auto error = parser.allocate(std::max<std::size_t>(json.size(), 64), kMaxDepth); error) {
    fail(ErrorCode::out_of_memory, "{}: {} bytes of JSON do not fit into memory", what, json.size());
  }
  if (const auto error = parser.parse(json.data(), json.size()).get(root); error) {
    fail(ErrorCode::invalid_argument, "{}: not valid JSON: {}", what, simdjson::error_message(error));
  }
  try {
    return convert(budget, root);
  } catch (const Error& error) {
    fail(ErrorCode::invalid_argument, "{}: {}", what, error.what());
  }
}

}  // namespace wick::text::jinja
