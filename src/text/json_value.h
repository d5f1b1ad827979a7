#pragma once

#include <simdjson.h>

#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>

#include "core/fail.h"

namespace wick::text {

/// A value in a parsed JSON file, with the file's name and its own, for messages: reading it as what it is not is an
/// Error(format).
class JsonValue {
 public:
  JsonValue(simdjson::dom::element element, std::string file, std::string path)
      : element_(element), file_(std::move(file)), path_(std::move(path)) {}

  bool is_null() const { return element_.is_null(); }

  simdjson::dom::object object() const { return as<simdjson::dom::object>("an object"); }
  simdjson::dom::array array() const { return as<simdjson::dom::array>("a list"); }
  std::string_view string() const { return as<std::string_view>("a string"); }
  bool boolean() const { return as<bool>("true or false"); }
  double number() const { return as<double>("a number"); }
  /// A whole number in [0, bound).
  std::uint64_t integer_below(std::uint64_t bound) const {
    const auto value = as<std::uint64_t>("a whole number");
    if (value >= bound) format("is {}, expected less than {}", value, bound);
    return value;
  }

  /// A field of this object; nothing if it is missing or null.
  std::optional<JsonValue> find(std::string_view key) const {
    simdjson::dom::element field;
    if (object().at_key(key).get(field) != simdjson::SUCCESS || field.is_null()) return std::nullopt;
    return child(field, key);
  }
  JsonValue at(std::string_view key) const {
    auto field = find(key);
    if (!field) format("has no \"{}\"", key);
    return *std::move(field);
  }
  bool boolean_or(std::string_view key, bool otherwise) const {
    const auto field = find(key);
    return field ? field->boolean() : otherwise;
  }
  /// The value of `element`, which is inside this one and called `key`.
  JsonValue child(simdjson::dom::element element, std::string_view key) const {
    return {element, file_, path_.empty() ? std::string(key) : fmt::format("{}.{}", path_, key)};
  }
  /// Calls use(JsonValue) with each value of this list.
  template <class Use>
  void for_each(Use&& use) const {
    std::size_t index = 0;
    for (const simdjson::dom::element element : array()) {
      use(JsonValue{element, file_, fmt::format("{}[{}]", path_, index++)});
    }
  }
  /// Refuses this object if it has a field that is not listed.
  void only(std::initializer_list<std::string_view> known) const {
    for (const auto& field : object()) {
      bool found = false;
      for (const std::string_view key : known) found = found || key == field.key;
      if (!found) unsupported("has the option \"{}\", which is not supported", field.key);
    }
  }

  const std::string& file() const { return file_; }
  const std::string& path() const { return path_; }

  template <class... Args>
  [[noreturn]] void format(fmt::format_string<Args...> message, Args&&... args) const {
    refuse(ErrorCode::format, fmt::format(message, std::forward<Args>(args)...));
  }
  template <class... Args>
  [[noreturn]] void unsupported(fmt::format_string<Args...> message, Args&&... args) const {
    refuse(ErrorCode::unsupported, fmt::format(message, std::forward<Args>(args)...));
  }

 private:
  [[noreturn]] void refuse(ErrorCode code, const std::string& what) const {
    fail(code, "{}: {} {}", file_, path_.empty() ? "the file" : path_, what);
  }
  template <class T>
  T as(std::string_view expected) const {
    T value;
    if (element_.get(value) != simdjson::SUCCESS) format("is {}, expected {}", kind(), expected);
    return value;
  }
  std::string_view kind() const {
    switch (element_.type()) {
      case simdjson::dom::element_type::ARRAY:
        return "a list";
      case simdjson::dom::element_type::OBJECT:
        return "an object";
      case simdjson::dom::element_type::INT64:
      case simdjson::dom::element_type::UINT64:
      case simdjson::dom::element_type::DOUBLE:
        return "a number";
      case simdjson::dom::element_type::STRING:
        return "a string";
      case simdjson::dom::element_type::BOOL:
        return "true or false";
      case simdjson::dom::element_type::NULL_VALUE:
        return "null";
    }
    return "something else";
  }

  simdjson::dom::element element_;
  std::string file_;
  std::string path_;
};

}  // namespace wick::text
