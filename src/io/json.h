#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace wick {

/// A JSON value; objects are kept sorted by key.
using Json = nlohmann::json;

/// Parses one JSON value (RFC 8259). Error(format) naming `where`, line and column for what is not JSON: also for bytes
/// that are not UTF-8, NaN and Infinity, a key given twice in one object, and nesting deeper than 256.
Json parse_json(std::string_view text, std::string_view where);

/// parse_json() of a whole file of at most 64 MiB; a byte-order mark is skipped. Error(io) when it cannot be read.
Json read_json_file(const std::filesystem::path& path);

/// As Python's json.dumps(value, sort_keys=True, indent=2) writes it, to the byte: ASCII only, floats as repr() prints
/// them, NaN and Infinity by name (which parse_json refuses). No newline at the end.
/// Error(invalid_argument) for a string that is not UTF-8.
std::string dump_json(const Json& value);

/// On one line, as Python's json.dumps(value, sort_keys=True): for JSONL.
std::string dump_json_line(const Json& value);

/// A float as Python's repr() prints it: 1e-05, 0.05, 8.0, nan, inf.
std::string python_repr(double value);

namespace json_detail {

/// The bounds that an integer must keep to, and how they are called in a message.
struct IntegerRange {
  std::int64_t low;
  std::uint64_t high;
};

std::string path_of(std::string_view where, std::string_view key);  // config.json: "key"
[[noreturn]] void wrong(std::string_view where, std::string_view key, const Json& found, std::string_view expected);
[[noreturn]] void missing(std::string_view where, std::string_view key);
const Json* find(const Json& object, std::string_view key, std::string_view where);
bool to_bool(const Json& value, std::string_view where, std::string_view key);
double to_double(const Json& value, std::string_view where, std::string_view key);
const std::string& to_string(const Json& value, std::string_view where, std::string_view key);
/// The two's complement bits of an integer within `range`.
std::uint64_t to_integer(const Json& value, IntegerRange range, std::string_view where, std::string_view key);
const Json& to_array(const Json& value, std::string_view where, std::string_view key);

template <class T>
struct IsVector : std::false_type {};
template <class T>
struct IsVector<std::vector<T>> : std::true_type {};

template <class T>
T convert(const Json& value, std::string_view where, std::string_view key) {
  if constexpr (std::same_as<T, bool>) {
    return to_bool(value, where, key);
  } else if constexpr (std::integral<T>) {
    const IntegerRange range{static_cast<std::int64_t>(std::numeric_limits<T>::min()),
                             static_cast<std::uint64_t>(std::numeric_limits<T>::max())};
    return static_cast<T>(to_integer(value, range, where, key));
  } else if constexpr (std::floating_point<T>) {
    return static_cast<T>(to_double(value, where, key));
  } else if constexpr (std::same_as<T, std::string>) {
    return to_string(value, where, key);
  } else if constexpr (std::same_as<T, Json>) {
    return value;
  } else {
    static_assert(IsVector<T>::value, "bool, integers, floats, std::string, Json, or a vector of these");
    T out;
    const Json& array = to_array(value, where, key);
    out.reserve(array.size());
    for (const Json& element : array) out.push_back(convert<typename T::value_type>(element, where, key));
    return out;
  }
}

}  // namespace json_detail

/// object[key] as a T: bool, an integer, a float, std::string, Json, or a std::vector of these. `where` names the file
/// in messages: config.json: "hidden_size" is "abc", expected an integer. Nothing is converted that is not exact in
/// kind: 1.0 is no integer, 1 is no bool, "1" is no number; only an integer may stand for a float.
/// Error(format) when the key is missing or null, or its value is of another type or out of T's range.
template <class T>
T get(const Json& object, std::string_view key, std::string_view where) {
  const Json* value = json_detail::find(object, key, where);
  if (value == nullptr) json_detail::missing(where, key);
  return json_detail::convert<T>(*value, where, key);
}

/// get(), and `fallback` when the key is missing or null.
template <class T>
T get_or(const Json& object, std::string_view key, std::type_identity_t<T> fallback, std::string_view where) {
  const Json* value = json_detail::find(object, key, where);
  return value == nullptr ? std::move(fallback) : json_detail::convert<T>(*value, where, key);
}

/// get(), and nothing when the key is missing or null.
template <class T>
std::optional<T> get_optional(const Json& object, std::string_view key, std::string_view where) {
  const Json* value = json_detail::find(object, key, where);
  if (value == nullptr) return std::nullopt;
  return json_detail::convert<T>(*value, where, key);
}

/// A size: get() of an integer that must be at least 1.
std::int64_t get_positive(const Json& object, std::string_view key, std::string_view where);
/// get_positive(), and `fallback` when the key is missing or null.
std::int64_t get_positive_or(const Json& object, std::string_view key, std::int64_t fallback, std::string_view where);

}  // namespace wick
