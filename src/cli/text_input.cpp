#include "cli/text_input.h"

#include "cli/cli.h"
#include "core/fail.h"
#include "io/json.h"
#include "io/quote.h"

namespace wick::cli {
namespace {

LineReader open_lines(const TextInputOptions& options, const std::function<bool()>& stop) {
  const LineOptions lines{.keep_blank = !options.is_jsonl(),
                          .stop = [stop] { return stop_requested || (stop && stop()); }};
  return options.input == "-" ? LineReader::standard_input(lines) : LineReader(options.input, lines);
}

}  // namespace

void TextInputOptions::add_format_to(CLI::App& verb) {
  verb.add_option("--input-format", format, "text, jsonl (objects with a \"text\"), or auto: by the file's name")
      ->check(CLI::IsMember({"auto", "text", "jsonl"}))
      ->capture_default_str();
}

bool TextInputOptions::is_jsonl() const { return format == "jsonl" || (format == "auto" && input.ends_with(".jsonl")); }

TextInput::TextInput(const TextInputOptions& options, const std::function<bool()>& stop)
    : lines_(open_lines(options, stop)), jsonl_(options.is_jsonl()) {}

std::string TextInput::text_of(std::string_view line, std::int64_t number) const {
  return text_of_line(line, jsonl_, where(number));
}

std::string text_of_line(std::string_view line, bool jsonl, const std::string& where) {
  if (jsonl) return get<std::string>(parse_json(line, where), "text", where);
  if (const std::size_t valid = valid_utf8_prefix(line); valid != line.size()) {
    fail(ErrorCode::format, "{}: byte {} of the line is not UTF-8", where, valid + 1);
  }
  return std::string(line);
}

}  // namespace wick::cli
