#include "text/section_values.h"

#include "text/unicode.h"

namespace wick::text {
namespace {

PrependScheme read_prepend_scheme(const JsonValue& value) {
  const auto scheme = value.find("prepend_scheme");
  const std::string_view name = scheme ? scheme->string() : "always";
  if (name != "always" && name != "first" && name != "never") {
    scheme->format("is \"{}\", expected always, first or never", name);
  }
  // Old files have the flag alone.
  if (!value.boolean_or("add_prefix_space", true)) {
    if (scheme && name != "never") scheme->format("is \"{}\", but add_prefix_space is false", name);
    return PrependScheme::never;
  }
  return name == "always" ? PrependScheme::always : name == "first" ? PrependScheme::first : PrependScheme::never;
}

}  // namespace

Regex read_pattern(const JsonValue& value) {
  value.only({"Regex", "String"});
  if (const auto regex = value.find("Regex")) return {regex->string(), value.file()};
  return Regex::literal(value.at("String").string(), value.file());
}

ReplaceStep read_replace(const JsonValue& value) {
  value.only({"type", "pattern", "content"});
  return {read_pattern(value.at("pattern")), std::string(value.at("content").string())};
}

std::string read_character(const JsonValue& value) {
  const std::string_view text = value.string();
  std::size_t length = 0;
  if (!text.empty()) next_code_point(text, length);
  if (text.empty() || length != text.size()) value.format("is \"{}\", expected one character", text);
  return std::string(text);
}

MetaspaceStep read_metaspace(const JsonValue& value) {
  value.only({"type", "replacement", "prepend_scheme", "add_prefix_space", "split", "str_rep"});
  return {read_character(value.at("replacement")), read_prepend_scheme(value), value.boolean_or("split", true)};
}

}  // namespace wick::text
