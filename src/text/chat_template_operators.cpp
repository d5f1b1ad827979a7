// Arithmetic, subscripts and slices.
#include <algorithm>
#include <cmath>

#include "core/fail.h"
#include "text/chat_template_value.h"

namespace wick::text::jinja {
namespace {

[[noreturn]] void overflow() { fail(ErrorCode::unsupported, "an integer beyond 64 bits is not supported"); }
[[noreturn]] void by_zero() { fail(ErrorCode::format, "a division by zero"); }

std::int64_t floor_divide(std::int64_t x, std::int64_t y) {
  if (y == 0) by_zero();
  if (y == -1) {
    std::int64_t out = 0;
    if (__builtin_sub_overflow(std::int64_t{0}, x, &out)) overflow();
    return out;
  }
  return x / y - (x % y != 0 && (x < 0) != (y < 0) ? 1 : 0);
}

std::int64_t power(std::int64_t base, std::int64_t exponent) {
  std::int64_t out = 1;
  for (; exponent > 0; exponent /= 2) {
    if (exponent % 2 == 1 && __builtin_mul_overflow(out, base, &out)) overflow();
    if (exponent > 1 && __builtin_mul_overflow(base, base, &base)) overflow();
  }
  return out;
}

Value integer_arithmetic(std::string_view op, std::int64_t x, std::int64_t y) {
  std::int64_t out = 0;
  if (op == "+") {
    if (__builtin_add_overflow(x, y, &out)) overflow();
  } else if (op == "-") {
    if (__builtin_sub_overflow(x, y, &out)) overflow();
  } else if (op == "*") {
    if (__builtin_mul_overflow(x, y, &out)) overflow();
  } else if (op == "//") {
    out = floor_divide(x, y);
  } else if (op == "%") {
    if (y == 0) by_zero();
    out = y == -1 ? 0 : x % y;
    if (out != 0 && (out < 0) != (y < 0)) out += y;
  } else if (op == "**" && y >= 0) {
    out = power(x, y);
  } else {
    if (op == "/" ? y == 0 : x == 0) by_zero();
    return Value::number(op == "/" ? static_cast<double>(x) / static_cast<double>(y)
                                   : std::pow(static_cast<double>(x), static_cast<double>(y)));
  }
  return Value::integer(out);
}

Value real_arithmetic(std::string_view op, double x, double y) {
  if (op == "+") return Value::number(x + y);
  if (op == "-") return Value::number(x - y);
  if (op == "*") return Value::number(x * y);
  if (op == "**") {
    if (x == 0 && y < 0) by_zero();
    if (x < 0 && y != std::floor(y)) fail(ErrorCode::unsupported, "a complex number is not supported");
    return Value::number(std::pow(x, y));
  }
  if (y == 0) by_zero();
  if (op == "/") return Value::number(x / y);
  if (op == "//") return Value::number(std::floor(x / y));
  double rest = std::fmod(x, y);
  if (rest != 0 && (rest < 0) != (y < 0)) rest += y;
  return Value::number(rest);
}

Value repeat(Budget& budget, const Value& value, std::int64_t count) {
  const auto times = static_cast<std::size_t>(std::max<std::int64_t>(count, 0));
  std::size_t units = 0;
  const std::size_t size =
      value.string() != nullptr ? value.string()->size() : value.list()->items.size() * sizeof(Value);
  if (__builtin_mul_overflow(size, times, &units)) overflow();
  budget.spend(units);
  if (const std::string* text = value.string()) {
    std::string out;
    for (std::size_t i = 0; i < times && size > 0; ++i) out += *text;
    return Value::of(std::move(out));
  }
  std::vector<Value> out;
  const auto& items = value.list()->items;
  for (std::size_t i = 0; i < times && size > 0; ++i) out.insert(out.end(), items.begin(), items.end());
  return make_list(budget, std::move(out), value.list()->tuple);
}

std::int64_t bound(const Value& value) {
  const auto integer = value.as_integer();
  if (!integer) fail(ErrorCode::format, "a slice from or to {}, expected an integer", type_name(value));
  return *integer;
}

// The positions that start:stop:step takes out of `size`, as Python's slice.indices() has it.
std::vector<std::size_t> slice_positions(Budget& budget, std::int64_t size, const Value& start, const Value& stop,
                                         const Value& step) {
  const std::int64_t stride = step.is<None>() ? 1 : bound(step);
  if (stride == 0) fail(ErrorCode::format, "a slice with a step of zero");
  const bool backward = stride < 0;
  const std::int64_t low = backward ? -1 : 0;
  const std::int64_t high = backward ? size - 1 : size;
  const auto clamp = [&](const Value& value, std::int64_t fallback) {
    if (value.is<None>()) return fallback;
    const std::int64_t position = bound(value);
    return std::clamp(position < 0 ? position + size : position, low, high);
  };
  const std::int64_t first = clamp(start, backward ? high : low);
  const std::int64_t end = clamp(stop, backward ? low : high);
  std::vector<std::size_t> out;
  for (std::int64_t at = first; backward ? at > end : at < end;) {
    budget.spend(sizeof at);
    out.push_back(static_cast<std::size_t>(at));
    if (__builtin_add_overflow(at, stride, &at)) break;
  }
  return out;
}

}  // namespace

Value arithmetic(Budget& budget, std::string_view op, const Value& a, const Value& b) {
  if (const auto x = a.as_integer(), y = b.as_integer(); x && y) return integer_arithmetic(op, *x, *y);
  if (const auto x = a.as_number(), y = b.as_number(); x && y) return real_arithmetic(op, *x, *y);
  if (op == "+") {
    if (const std::string* x = a.string(), *y = b.string(); x && y) {
      budget.spend(x->size() + y->size());
      return Value::of(*x + *y);
    }
    if (const ListData* x = a.list(), *y = b.list(); x && y && x->tuple == y->tuple) {
      budget.spend((x->items.size() + y->items.size()) * sizeof(Value));
      std::vector<Value> items = x->items;
      items.insert(items.end(), y->items.begin(), y->items.end());
      return make_list(budget, std::move(items), x->tuple);
    }
  }
  if (op == "*") {
    if ((a.string() || a.list()) && b.as_integer()) return repeat(budget, a, *b.as_integer());
    if ((b.string() || b.list()) && a.as_integer()) return repeat(budget, b, *a.as_integer());
  }
  if (op == "%" && a.string()) fail(ErrorCode::unsupported, "formatting a string with % is not supported");
  fail(ErrorCode::format, "{} {} {}", type_name(a), op, type_name(b));
}

Value negate(const Value& value) {
  if (const auto integer = value.as_integer()) return integer_arithmetic("-", 0, *integer);
  if (const auto number = value.as_number()) return Value::number(-*number);
  fail(ErrorCode::format, "- before {}, expected a number", type_name(value));
}

Value subscript(Budget& budget, const Value& object, const Value& index) {
  if (const DictData* dict = object.dict()) {
    const Value* value = find(budget, *dict, index);
    return value == nullptr ? Value{} : *value;
  }
  const auto position = index.as_integer();
  if (!position) return {};
  if (const ListData* list = object.list()) {
    const auto size = static_cast<std::int64_t>(list->items.size());
    if (*position < -size || *position >= size) return {};
    return list->items[static_cast<std::size_t>(*position < 0 ? *position + size : *position)];
  }
  if (const std::string* text = object.string()) {
    const auto starts = character_starts(budget, *text);
    const auto size = static_cast<std::int64_t>(starts.size() - 1);
    if (*position < -size || *position >= size) return {};
    const auto at = static_cast<std::size_t>(*position < 0 ? *position + size : *position);
    return Value::of(text->substr(starts[at], starts[at + 1] - starts[at]));
  }
  return {};
}

Value slice(Budget& budget, const Value& object, const Value& start, const Value& stop, const Value& step) {
  if (const ListData* list = object.list()) {
    std::vector<Value> items;
    for (const std::size_t at :
         slice_positions(budget, static_cast<std::int64_t>(list->items.size()), start, stop, step)) {
      items.push_back(list->items[at]);
    }
    return make_list(budget, std::move(items), list->tuple);
  }
  if (const std::string* text = object.string()) {
    const auto starts = character_starts(budget, *text);
    std::string out;
    for (const std::size_t at :
         slice_positions(budget, static_cast<std::int64_t>(starts.size() - 1), start, stop, step)) {
      out.append(*text, starts[at], starts[at + 1] - starts[at]);
    }
    return make_string(budget, std::move(out));
  }
  if (object.is<Undefined>()) return {};
  fail(ErrorCode::format, "a slice of {}, expected a list or a string", type_name(object));
}

}  // namespace wick::text::jinja
