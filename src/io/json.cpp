#include "io/json.h"

#include <algorithm>

#include "core/fail.h"
#include "io/json_events.h"
#include "io/mapped_file.h"
#include "io/quote.h"

namespace wick {
namespace {

constexpr std::size_t kMaxFile = std::size_t{64} << 20;
constexpr std::size_t kMaxDepth = 256;

// The part of nlohmann's message that says what is wrong, without its code, its position and the raw input it quotes.
std::string reason_of(std::string_view message) {
  constexpr std::string_view kPosition = "parse error at ";
  if (const auto at = message.find("] "); at != std::string_view::npos) message.remove_prefix(at + 2);
  if (message.starts_with(kPosition)) message.remove_prefix(message.find(": ") + 2);
  std::string reason(message.substr(0, message.find("; last read: ")));
  if (const auto expected = message.rfind("; expected "); expected != std::string_view::npos) {
    if (reason.size() < message.size()) reason += message.substr(expected);
  }
  // An overflowing number is quoted whole, however many digits it has.
  if (reason.size() > 200) reason = reason.substr(0, 200) + "...";
  return reason;
}

[[noreturn]] void fail_at(std::string_view text, std::size_t position, std::string_view where,
                          std::string_view reason) {
  const std::string_view before = text.substr(0, std::min(position, text.size()));
  const auto line = std::count(before.begin(), before.end(), '\n') + 1;
  const auto newline = before.rfind('\n');
  const std::size_t column = before.size() - (newline == std::string_view::npos ? 0 : newline + 1) + 1;
  fail(ErrorCode::format, "{}: not valid JSON at line {}, column {}: {}", where, line, column, reason);
}

// Builds a Json from parse events, refusing what nlohmann's own builder lets pass: duplicate keys and deep nesting.
class Builder final : public JsonEvents {
 public:
  using JsonEvents::JsonEvents;

  bool null() override { return add(nullptr); }
  bool boolean(bool value) override { return add(value); }
  bool number_integer(number_integer_t value) override { return add(value); }
  bool number_unsigned(number_unsigned_t value) override { return add(value); }
  bool number_float(number_float_t value, const string_t&) override { return add(value); }
  bool string(string_t& value) override { return add(std::move(value)); }
  bool start_object(std::size_t) override { return open(Json::object()); }
  bool start_array(std::size_t) override { return open(Json::array()); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }

  bool key(string_t& name) override {
    auto [at, inserted] = stack_.back()->get_ref<Json::object_t&>().try_emplace(name);
    if (!inserted) fail(ErrorCode::format, "{}: the key {} is given twice in one object", where(), quote(name));
    slot_ = &at->second;
    return true;
  }

  Json take() { return std::move(root_); }

 private:
  Json* put(Json&& value) {
    if (stack_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    if (stack_.back()->is_array()) return &stack_.back()->get_ref<Json::array_t&>().emplace_back(std::move(value));
    *slot_ = std::move(value);
    return slot_;
  }

  bool add(Json value) {
    put(std::move(value));
    return true;
  }

  bool open(Json value) {
    if (stack_.size() == kMaxDepth) {
      fail(ErrorCode::format, "{}: JSON nested deeper than {} levels", where(), kMaxDepth);
    }
    stack_.push_back(put(std::move(value)));
    return true;
  }

  bool close() {
    stack_.pop_back();
    return true;
  }

  Json root_;
  std::vector<Json*> stack_;  // the open arrays and objects, outermost first
  Json* slot_ = nullptr;      // where the value of the last key goes
};

}  // namespace

void JsonEvents::parse() {
  // nlohmann's lexer takes a NUL for the end of the input, and would accept anything behind it.
  if (const auto nul = text_.find('\0'); nul != std::string_view::npos) fail_at(text_, nul, where_, "a NUL byte");
  Json::sax_parse(text_, this);
}

bool JsonEvents::parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception& error) {
  fail_at(text_, position == 0 ? 0 : position - 1, where_, reason_of(error.what()));
}

Json parse_json(std::string_view text, std::string_view where) {
  Builder builder(text, where);
  builder.parse();
  return builder.take();
}

Json read_json_file(const std::filesystem::path& path) {
  const auto file = MappedFile::open(path);
  const auto bytes = file->bytes();
  if (bytes.size() > kMaxFile) {
    fail(ErrorCode::format, "{}: is {} bytes, expected a JSON file of at most {}", path.string(), bytes.size(),
         kMaxFile);
  }
  return parse_json({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, path.string());
}

namespace json_detail {
namespace {

std::string describe(const Json& value) {
  switch (value.type()) {
    case Json::value_t::object:
      return "an object";
    case Json::value_t::array:
      return value.empty() ? "an empty list" : "a list";
    case Json::value_t::string:
      return quote(value.get_ref<const std::string&>(), 60);
    default:
      return dump_json_line(value);
  }
}

std::string describe(IntegerRange range) {
  const bool any_signed = range.low == std::numeric_limits<std::int64_t>::min();
  const bool any_size = range.high >= static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
  if (any_signed) return "an integer";
  if (any_size && range.low == 0) return "a non-negative integer";
  if (any_size && range.low == 1) return "a positive integer";
  return fmt::format("an integer from {} to {}", range.low, range.high);
}

}  // namespace

std::string path_of(std::string_view where, std::string_view key) { return fmt::format("{}: {}", where, quote(key)); }

void wrong(std::string_view where, std::string_view key, const Json& found, std::string_view expected) {
  fail(ErrorCode::format, "{} is {}, expected {}", path_of(where, key), describe(found), expected);
}

void missing(std::string_view where, std::string_view key) {
  fail(ErrorCode::format, "{} is missing", path_of(where, key));
}

const Json* find(const Json& object, std::string_view key, std::string_view where) {
  if (!object.is_object()) fail(ErrorCode::format, "{}: is {}, expected an object", where, describe(object));
  const auto at = object.find(key);
  return at == object.end() || at->is_null() ? nullptr : &*at;
}

bool to_bool(const Json& value, std::string_view where, std::string_view key) {
  if (!value.is_boolean()) wrong(where, key, value, "true or false");
  return value.get<bool>();
}

double to_double(const Json& value, std::string_view where, std::string_view key) {
  if (!value.is_number()) wrong(where, key, value, "a number");
  return value.get<double>();
}

const std::string& to_string(const Json& value, std::string_view where, std::string_view key) {
  if (!value.is_string()) wrong(where, key, value, "a string");
  return value.get_ref<const std::string&>();
}

std::uint64_t to_integer(const Json& value, IntegerRange range, std::string_view where, std::string_view key) {
  if (value.is_number_unsigned()) {
    const auto number = value.get<std::uint64_t>();
    if (number <= range.high && (range.low <= 0 || number >= static_cast<std::uint64_t>(range.low))) return number;
  } else if (value.is_number_integer()) {
    // nlohmann keeps 0 and above as unsigned when it parses, but not when a program sets an int.
    const auto number = value.get<std::int64_t>();
    if (number >= range.low && (number < 0 || static_cast<std::uint64_t>(number) <= range.high)) {
      return static_cast<std::uint64_t>(number);
    }
  }
  wrong(where, key, value, describe(range));
}

const Json& to_array(const Json& value, std::string_view where, std::string_view key) {
  if (!value.is_array()) wrong(where, key, value, "a list");
  return value;
}

}  // namespace json_detail

namespace {

constexpr json_detail::IntegerRange kPositive{1, static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())};

}  // namespace

std::int64_t get_positive(const Json& object, std::string_view key, std::string_view where) {
  const Json* value = json_detail::find(object, key, where);
  if (value == nullptr) json_detail::missing(where, key);
  return static_cast<std::int64_t>(json_detail::to_integer(*value, kPositive, where, key));
}

std::int64_t get_positive_or(const Json& object, std::string_view key, std::int64_t fallback, std::string_view where) {
  const Json* value = json_detail::find(object, key, where);
  return value == nullptr ? fallback
                          : static_cast<std::int64_t>(json_detail::to_integer(*value, kPositive, where, key));
}

}  // namespace wick
