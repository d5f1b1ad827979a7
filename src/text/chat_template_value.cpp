#include "text/chat_template_value.h"

#include <algorithm>

#include "core/fail.h"
#include "text/unicode.h"

namespace wick::text::jinja {
namespace {

constexpr std::size_t kMaxDepth = 64;  // of lists and dicts within each other
constexpr std::size_t kCompareUnits = 16;

std::size_t depth_of(const Value& value) {
  if (const ListData* list = value.list()) return list->depth;
  if (const DictData* dict = value.dict()) return dict->depth;
  return 0;
}

void check_depth(std::size_t depth) {
  if (depth > kMaxDepth) fail(ErrorCode::format, "lists and mappings nested deeper than {} levels", kMaxDepth);
}

}  // namespace

const std::string* Value::string() const {
  const auto* text = std::get_if<String>(&data);
  return text == nullptr ? nullptr : text->get();
}

const ListData* Value::list() const {
  const auto* list = std::get_if<List>(&data);
  return list == nullptr ? nullptr : list->get();
}

const DictData* Value::dict() const {
  const auto* dict = std::get_if<Dict>(&data);
  return dict == nullptr ? nullptr : dict->get();
}

std::optional<std::int64_t> Value::as_integer() const {
  if (const auto* integer = std::get_if<std::int64_t>(&data)) return *integer;
  if (const auto* boolean = std::get_if<bool>(&data)) return *boolean ? 1 : 0;
  return std::nullopt;
}

std::optional<double> Value::as_number() const {
  if (const auto* number = std::get_if<double>(&data)) return *number;
  if (const auto integer = as_integer()) return static_cast<double>(*integer);
  return std::nullopt;
}

void Budget::spend(std::size_t units) {
  if (units > left_) fail(ErrorCode::format, "the template needs too much time or memory");
  left_ -= units;
}

Value make_string(Budget& budget, std::string text) {
  budget.spend(text.size());
  return Value::of(std::move(text));
}

Value make_list(Budget& budget, std::vector<Value> items, bool tuple) {
  budget.spend(items.size() * sizeof(Value));
  auto list = std::make_shared<ListData>();
  for (const Value& item : items) list->depth = std::max(list->depth, depth_of(item) + 1);
  check_depth(list->depth);
  list->items = std::move(items);
  list->tuple = tuple;
  return {List(std::move(list))};
}

Value make_dict(Budget& budget, std::vector<std::pair<Value, Value>> items) {
  budget.spend(items.size() * 2 * sizeof(Value));
  auto dict = std::make_shared<DictData>();
  for (auto& [key, value] : items) {
    if (key.is<List>() || key.is<Dict>()) {
      fail(ErrorCode::format, "the key of a mapping is {}, expected a string or a number", type_name(key));
    }
    dict->depth = std::max(dict->depth, depth_of(value) + 1);
    if (const Value* known = find(budget, *dict, key)) {
      const_cast<Value&>(*known) = std::move(value);
    } else {
      dict->items.emplace_back(std::move(key), std::move(value));
    }
  }
  check_depth(dict->depth);
  return {Dict(std::move(dict))};
}

std::string_view type_name(const Value& value) {
  constexpr std::string_view kNames[] = {"undefined", "none",   "a boolean",   "an integer", "a float", "a string",
                                         "a list",    "a dict", "a namespace", "a loop",     "a macro", "a function"};
  if (const ListData* list = value.list(); list != nullptr && list->tuple) return "a tuple";
  return kNames[value.data.index()];
}

bool truth(const Value& value) {
  if (value.is<Undefined>() || value.is<None>()) return false;
  if (const auto number = value.as_number()) return *number != 0;
  if (const std::string* text = value.string()) return !text->empty();
  if (const ListData* list = value.list()) return !list->items.empty();
  if (const DictData* dict = value.dict()) return !dict->items.empty();
  return true;
}

bool equals(Budget& budget, const Value& a, const Value& b) {
  budget.spend(kCompareUnits);
  if (const auto x = a.as_integer(), y = b.as_integer(); x && y) return *x == *y;
  if (const auto x = a.as_number(), y = b.as_number(); x && y) return *x == *y;
  if (const std::string* x = a.string(), *y = b.string(); x && y) {
    if (x->size() != y->size()) return false;
    budget.spend(x->size());
    return *x == *y;
  }
  if (const ListData* x = a.list(), *y = b.list(); x && y) {
    if (x->tuple != y->tuple || x->items.size() != y->items.size()) return false;
    for (std::size_t i = 0; i < x->items.size(); ++i) {
      if (!equals(budget, x->items[i], y->items[i])) return false;
    }
    return true;
  }
  if (const DictData* x = a.dict(), *y = b.dict(); x && y) {
    if (x->items.size() != y->items.size()) return false;
    for (const auto& [key, value] : x->items) {
      const Value* other = find(budget, *y, key);
      if (other == nullptr || !equals(budget, value, *other)) return false;
    }
    return true;
  }
  if (a.data.index() != b.data.index()) return false;
  if (a.is<NamespaceData*>()) return std::get<NamespaceData*>(a.data) == std::get<NamespaceData*>(b.data);
  if (a.is<LoopData*>()) return std::get<LoopData*>(a.data) == std::get<LoopData*>(b.data);
  if (a.is<const MacroData*>()) return std::get<const MacroData*>(a.data) == std::get<const MacroData*>(b.data);
  if (a.is<Function>()) return std::get<Function>(a.data).name == std::get<Function>(b.data).name;
  return a.is<Undefined>() || a.is<None>();
}

int compare(Budget& budget, const Value& a, const Value& b) {
  budget.spend(kCompareUnits);
  const auto order = [](const auto& x, const auto& y) { return x < y ? -1 : (y < x ? 1 : 0); };
  if (const auto x = a.as_integer(), y = b.as_integer(); x && y) return order(*x, *y);
  if (const auto x = a.as_number(), y = b.as_number(); x && y) return order(*x, *y);
  if (const std::string* x = a.string(), *y = b.string(); x && y) {
    budget.spend(std::min(x->size(), y->size()));
    return order(*x, *y);  // the order of UTF-8 bytes is that of code points
  }
  if (const ListData* x = a.list(), *y = b.list(); x && y) {
    for (std::size_t i = 0; i < std::min(x->items.size(), y->items.size()); ++i) {
      if (!equals(budget, x->items[i], y->items[i])) return compare(budget, x->items[i], y->items[i]);
    }
    return order(x->items.size(), y->items.size());
  }
  fail(ErrorCode::format, "{} and {} have no order", type_name(a), type_name(b));
}

const Value* find(Budget& budget, const DictData& dict, const Value& key) {
  for (const auto& [name, value] : dict.items) {
    if (equals(budget, name, key)) return &value;
  }
  return nullptr;
}

const Value* find(Budget& budget, const DictData& dict, std::string_view key) {
  budget.spend(dict.items.size() + key.size());
  for (const auto& [name, value] : dict.items) {
    if (const std::string* text = name.string(); text != nullptr && *text == key) return &value;
  }
  return nullptr;
}

bool contains(Budget& budget, const Value& container, const Value& item) {
  if (const std::string* text = container.string()) {
    const std::string* part = item.string();
    if (part == nullptr) fail(ErrorCode::format, "{} in a string, expected a string in a string", type_name(item));
    budget.spend(text->size() + part->size());
    return text->find(*part) != std::string::npos;
  }
  if (const DictData* dict = container.dict()) return find(budget, *dict, item) != nullptr;
  if (const ListData* list = container.list()) {
    return std::any_of(list->items.begin(), list->items.end(),
                       [&](const Value& value) { return equals(budget, value, item); });
  }
  if (container.is<Undefined>()) return false;
  fail(ErrorCode::format, "\"in\" needs a list, a mapping or a string, found {}", type_name(container));
}

std::vector<Value> iterate(Budget& budget, const Value& value) {
  std::vector<Value> out;
  if (const ListData* list = value.list()) {
    budget.spend(list->items.size() * sizeof(Value));
    out = list->items;
  } else if (const DictData* dict = value.dict()) {
    budget.spend(dict->items.size() * sizeof(Value));
    for (const auto& item : dict->items) out.push_back(item.first);
  } else if (const std::string* text = value.string()) {
    const auto starts = character_starts(budget, *text);
    budget.spend(starts.size() * 64);
    for (std::size_t i = 0; i + 1 < starts.size(); ++i) {
      out.push_back(Value::of(text->substr(starts[i], starts[i + 1] - starts[i])));
    }
  } else if (!value.is<Undefined>()) {
    fail(ErrorCode::format, "found {}, expected something to iterate over", type_name(value));
  }
  return out;
}

std::size_t length(Budget& budget, const Value& value) {
  if (const ListData* list = value.list()) return list->items.size();
  if (const DictData* dict = value.dict()) return dict->items.size();
  if (const std::string* text = value.string()) return character_starts(budget, *text).size() - 1;
  if (value.is<Undefined>()) return 0;
  fail(ErrorCode::format, "{} has no length", type_name(value));
}

std::vector<std::size_t> character_starts(Budget& budget, std::string_view text) {
  budget.spend(text.size() * 8);
  std::vector<std::size_t> starts;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if ((static_cast<unsigned char>(text[i]) & 0xC0U) != 0x80U) starts.push_back(i);
  }
  starts.push_back(text.size());
  return starts;
}

bool is_space(std::uint32_t code_point) {
  return is_white_space(code_point) || (code_point >= 0x1C && code_point <= 0x1F);
}

std::string_view strip(std::string_view text, bool left, bool right, std::optional<std::string_view> characters) {
  const auto drops = [&](std::string_view character) {
    if (characters) return characters->find(character) != std::string_view::npos;
    std::size_t at = 0;
    return is_space(next_code_point(character, at));
  };
  while (left && !text.empty()) {
    std::size_t end = 0;
    next_code_point(text, end);
    if (!drops(text.substr(0, end))) break;
    text.remove_prefix(end);
  }
  while (right && !text.empty()) {
    std::size_t start = text.size() - 1;
    while (start > 0 && (static_cast<unsigned char>(text[start]) & 0xC0U) == 0x80U) --start;
    if (!drops(text.substr(start))) break;
    text = text.substr(0, start);
  }
  return text;
}

}  // namespace wick::text::jinja
