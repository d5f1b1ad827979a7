#include <array>
#include <charconv>
#include <cmath>

#include "core/fail.h"
#include "io/json.h"
#include "io/json_string.h"
#include "io/quote.h"

namespace wick {
namespace {

void append_string(std::string& out, std::string_view text) {
  if (const std::size_t valid = valid_utf8_prefix(text); valid != text.size()) {
    fail(ErrorCode::invalid_argument, "{} is not UTF-8 at byte {}, cannot be written as JSON", quote(text), valid);
  }
  append_json_string(out, text, JsonEscapes::ascii);
}

class Writer {
 public:
  explicit Writer(bool indented) : indented_(indented) {}

  void write(const Json& value) {
    switch (value.type()) {
      case Json::value_t::object:
        write_object(value);
        break;
      case Json::value_t::array:
        write_array(value);
        break;
      case Json::value_t::string:
        append_string(out_, value.get_ref<const std::string&>());
        break;
      case Json::value_t::boolean:
        out_ += value.get<bool>() ? "true" : "false";
        break;
      case Json::value_t::number_integer:
        out_ += fmt::to_string(value.get<std::int64_t>());
        break;
      case Json::value_t::number_unsigned:
        out_ += fmt::to_string(value.get<std::uint64_t>());
        break;
      case Json::value_t::number_float:
        write_float(value.get<double>());
        break;
      case Json::value_t::null:
        out_ += "null";
        break;
      case Json::value_t::binary:
      case Json::value_t::discarded:
        fail(ErrorCode::invalid_argument, "a binary value cannot be written as JSON");
    }
  }

  std::string take() { return std::move(out_); }

 private:
  void write_object(const Json& value) {
    out_ += '{';
    ++depth_;
    bool first = true;
    for (const auto& [key, element] : value.get_ref<const Json::object_t&>()) {
      separate(first);
      append_string(out_, key);
      out_ += ": ";
      write(element);
    }
    close(first, '}');
  }

  void write_array(const Json& value) {
    out_ += '[';
    ++depth_;
    bool first = true;
    for (const Json& element : value) {
      separate(first);
      write(element);
    }
    close(first, ']');
  }

  void write_float(double value) {
    if (std::isfinite(value)) {
      out_ += python_repr(value);
    } else {
      out_ += std::isnan(value) ? "NaN" : value < 0 ? "-Infinity" : "Infinity";
    }
  }

  void separate(bool& first) {
    if (!first) out_ += indented_ ? "," : ", ";
    first = false;
    if (indented_) new_line();
  }

  void close(bool empty, char bracket) {
    --depth_;
    if (indented_ && !empty) new_line();
    out_ += bracket;
  }

  void new_line() {
    out_ += '\n';
    out_.append(depth_ * 2, ' ');
  }

  bool indented_;
  std::size_t depth_ = 0;
  std::string out_;
};

}  // namespace

std::string python_repr(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  // The shortest digits that read back as the same number, as d.ddde[+-]xx: Python prints the same ones and only
  // chooses the notation by another rule.
  std::array<char, 40> buffer{};
  const auto written =
      std::to_chars(buffer.data(), buffer.data() + buffer.size(), value, std::chars_format::scientific);
  const std::string_view scientific(buffer.data(), static_cast<std::size_t>(written.ptr - buffer.data()));
  const auto e = scientific.find('e');
  int exponent = 0;
  const std::string_view power = scientific.substr(scientific[e + 1] == '+' ? e + 2 : e + 1);
  std::from_chars(power.data(), power.data() + power.size(), exponent);
  if (exponent < -4 || exponent >= 16) return std::string(scientific);

  std::string out(scientific.starts_with('-') ? "-" : "");
  std::string digits;
  for (const char c : scientific.substr(0, e)) {
    if (c >= '0' && c <= '9') digits += c;
  }
  if (exponent < 0) {
    out += "0." + std::string(static_cast<std::size_t>(-exponent - 1), '0') + digits;
  } else {
    const auto whole = static_cast<std::size_t>(exponent) + 1;
    if (digits.size() < whole) digits.append(whole - digits.size(), '0');
    out += digits.substr(0, whole) + "." + (digits.size() > whole ? digits.substr(whole) : "0");
  }
  return out;
}

std::string dump_json(const Json& value) {
  Writer writer(true);
  writer.write(value);
  return writer.take();
}

std::string dump_json_line(const Json& value) {
  Writer writer(false);
  writer.write(value);
  return writer.take();
}

}  // namespace wick
