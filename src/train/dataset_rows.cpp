#include "train/dataset_rows.h"

#include <algorithm>
#include <limits>

#include "core/fail.h"
#include "io/quote.h"

namespace wick {
namespace {

constexpr std::string_view kFormats = R"("text", "prompt" and "completion", or "input_ids")";

bool has(const Json& row, const char* key) {
  const auto at = row.find(key);
  return at != row.end() && !at->is_null();
}

// The keys of a row, for a message.
std::string list_keys(const Json& row) {
  constexpr std::size_t kMost = 5;
  std::string out;
  std::size_t count = 0;
  for (const auto& [key, value] : row.items()) {
    if (value.is_null()) continue;
    if (++count > kMost) return out + ", ...";
    out += (count == 1 ? "" : ", ") + quote(key, 40);
  }
  return count == 0 ? "no keys" : out;
}

std::string label_range(std::int64_t vocab_size) {
  return fmt::format("{} or an integer from 0 to {}", kIgnoreLabel, vocab_size - 1);
}

// A list of token ids below vocab_size; labels may be kIgnoreLabel as well.
std::vector<std::int32_t> read_ids(const Json& row, std::string_view key, bool labels, std::int64_t vocab_size,
                                   const std::string& where) {
  const Json& list = json_detail::to_array(row.at(std::string(key)), where, key);
  std::vector<std::int32_t> out;
  out.reserve(list.size());
  for (std::size_t i = 0; i < list.size(); ++i) {
    const Json& value = list[i];
    std::int64_t id = -1;
    if (value.is_number_unsigned()) {
      id = static_cast<std::int64_t>(
          std::min(value.get<std::uint64_t>(), std::uint64_t{std::numeric_limits<std::int64_t>::max()}));
    } else if (value.is_number_integer()) {
      id = value.get<std::int64_t>();
    }
    const bool valid = (id >= 0 && id < vocab_size) || (labels && id == kIgnoreLabel);
    if (!valid) {
      json_detail::wrong(where, fmt::format("{}[{}]", key, i), value,
                         labels ? label_range(vocab_size) : fmt::format("an integer from 0 to {}", vocab_size - 1));
    }
    out.push_back(static_cast<std::int32_t>(id));
  }
  return out;
}

}  // namespace

void RowReader::check_format(const Json& row) {
  const bool text = has(row, "text");
  const bool completion = has(row, "prompt") && has(row, "completion");
  const bool tokens = has(row, "input_ids");
  if (int{text} + int{completion} + int{tokens} > 1) {
    fail(ErrorCode::format, "{}: the row has the keys of several formats ({}), expected those of one: {}", where_,
         list_keys(row), kFormats);
  }
  if (!text && !completion && !tokens) {
    fail(ErrorCode::format, "{}: the row has {}, expected {}", where_, list_keys(row), kFormats);
  }
  const RowFormat found = text ? RowFormat::text : completion ? RowFormat::completion : RowFormat::tokens;
  if (!format_) {
    format_ = found;
    format_line_ = reader_.line();
  }
  if (found != *format_) {
    fail(ErrorCode::format, "{}: the row has the format {}, expected {} as in line {}: a file holds one format", where_,
         to_string(found), to_string(*format_), format_line_);
  }
}

std::vector<std::int32_t> RowReader::encode(std::string_view text, const EncodeOptions& options, Row& out) const {
  if (options_.tokenizer == nullptr) {
    fail(ErrorCode::format, "{}: the row is text and there is no tokenizer{}, expected \"input_ids\"", where_,
         options_.no_tokenizer.empty() ? "" : fmt::format(" ({})", options_.no_tokenizer));
  }
  std::vector<std::int32_t> ids = options_.tokenizer->encode_ids(text, options);
  const auto limit = options_.tokenizer->truncation_length();
  if (limit && ids.size() >= *limit) out.truncated = true;
  for (const std::int32_t id : ids) {
    if (id >= options_.vocab_size) {
      fail(ErrorCode::format, "{}: the tokenizer gives the id {}, the model's vocabulary has {}", where_, id,
           options_.vocab_size);
    }
  }
  return ids;
}

std::vector<std::int32_t> RowReader::encode_prompt(std::string_view text, Row& out) const {
  std::vector<std::int32_t> ids = encode(text, {}, out);
  const std::vector<std::int32_t> plain = encode(text, {.add_special_tokens = false}, out);
  // A template may add tokens on both sides. Those behind the text (an end of sequence) belong behind the completion.
  const auto at = std::find_end(ids.begin(), ids.end(), plain.begin(), plain.end());
  if (!plain.empty() && at != ids.end()) ids.erase(at + static_cast<std::ptrdiff_t>(plain.size()), ids.end());
  return ids;
}

void RowReader::append_eos(std::vector<std::int32_t>& ids) const {
  const auto& eos = options_.eos_token_ids;
  if (eos.empty()) return;
  if (!ids.empty() && std::find(eos.begin(), eos.end(), ids.back()) != eos.end()) return;
  ids.push_back(eos.front());
}

void RowReader::read_text(const Json& row, Row& out) const {
  out.example.ids = encode(get<std::string>(row, "text", where_), {}, out);
  append_eos(out.example.ids);
  out.example.labels = out.example.ids;
}

void RowReader::read_completion(const Json& row, Row& out) const {
  std::vector<std::int32_t>& ids = out.example.ids;
  const auto text = get<std::string>(row, "prompt", where_);
  ids = encode_prompt(text, out);
  const std::size_t prompt = ids.size();
  std::vector<std::int32_t> completion = encode(get<std::string>(row, "completion", where_),
                                                {.add_special_tokens = false, .continues = !text.empty()}, out);
  append_eos(completion);
  ids.insert(ids.end(), completion.begin(), completion.end());
  out.example.labels = ids;
  if (options_.mask_prompt) std::fill_n(out.example.labels.begin(), prompt, kIgnoreLabel);
}

void RowReader::read_tokens(const Json& row, Row& out) const {
  Example& example = out.example;
  example.ids = read_ids(row, "input_ids", false, options_.vocab_size, where_);
  example.labels = has(row, "labels") ? read_ids(row, "labels", true, options_.vocab_size, where_) : example.ids;
  if (example.labels.size() != example.ids.size()) {
    fail(ErrorCode::format, "{}: \"labels\" has {} entries, expected one for each of the {} input_ids", where_,
         example.labels.size(), example.ids.size());
  }
}

std::optional<RowReader::Row> RowReader::next() {
  const auto row = reader_.next();
  if (!row) return std::nullopt;
  where_ = reader_.where();
  json_detail::find(*row, "", where_);  // refuses what is no object
  check_format(*row);
  Row out;
  switch (*format_) {
    case RowFormat::text:
      read_text(*row, out);
      break;
    case RowFormat::completion:
      read_completion(*row, out);
      break;
    case RowFormat::tokens:
      read_tokens(*row, out);
      break;
  }
  return out;
}

}  // namespace wick
