#include "wick/chat_template.h"

#include <algorithm>
#include <utility>

#include "core/fail.h"
#include "io/json.h"
#include "io/mapped_file.h"
#include "text/chat_template_evaluator.h"
#include "text/chat_template_parser.h"
#include "text/unicode.h"

namespace wick {

namespace jinja = text::jinja;

struct ChatTemplate::Parts {
  std::string name;
  jinja::Block block;
  std::vector<std::pair<std::string, std::string>> special_tokens;  // by variable
};

namespace {

constexpr std::size_t kMaxTemplate = std::size_t{4} << 20;

template <class Work>
auto named(const std::string& name, Work&& work) {
  try {
    return work();
  } catch (const Error& error) {
    fail(error.code(), "{}: {}", name, error.what());
  }
}

jinja::Block parse_block(std::string_view source, const std::string& name) {
  if (source.size() > kMaxTemplate) {
    fail(ErrorCode::format, "{}: is {} bytes, expected a template of at most {}", name, source.size(), kMaxTemplate);
  }
  if (text::valid_prefix(source) != source.size()) fail(ErrorCode::format, "{}: is not UTF-8", name);
  return named(name, [&] { return jinja::parse_template(source); });
}

std::string valid_utf8(std::string_view bytes) {
  std::string out;
  text::append_lossy(out, bytes, false);
  return out;
}

// The template in tokenizer_config.json: a string, or the one named "default" of a list.
std::optional<std::string> template_of(const Json& config, const std::string& where) {
  const auto at = config.find("chat_template");
  if (at == config.end() || at->is_null()) return std::nullopt;
  if (!at->is_array()) return get<std::string>(config, "chat_template", where);
  for (const Json& entry : *at) {
    if (get<std::string>(entry, "name", where) == "default") return get<std::string>(entry, "template", where);
  }
  fail(ErrorCode::unsupported, "{}: \"chat_template\" is a list without the name \"default\"", where);
}

// A token is a string, or an object with its text as "content".
void add_special_tokens(const Json& json, const std::string& where,
                        std::vector<std::pair<std::string, std::string>>& tokens) {
  for (const char* name :
       {"bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"}) {
    const auto at = json.find(name);
    if (at == json.end() || at->is_null()) continue;
    const bool known =
        std::any_of(tokens.begin(), tokens.end(), [&](const auto& token) { return token.first == name; });
    if (known) continue;
    tokens.emplace_back(
        name, at->is_object() ? get<std::string>(*at, "content", where) : get<std::string>(json, name, where));
  }
}

}  // namespace

ChatTemplate::ChatTemplate(std::shared_ptr<const Parts> parts) : parts_(std::move(parts)) {}

ChatTemplate ChatTemplate::parse(std::string_view source, const std::string& name) {
  return ChatTemplate(std::make_shared<const Parts>(Parts{name, parse_block(source, name), {}}));
}

std::optional<ChatTemplate> ChatTemplate::from_folder(const std::filesystem::path& folder) {
  Parts parts;
  std::optional<std::string> source;
  const std::filesystem::path file = folder / "chat_template.jinja";
  if (std::filesystem::exists(file)) {
    const auto mapped = MappedFile::open(file);
    const auto bytes = mapped->bytes();
    source = std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    parts.name = file.string();
  }
  for (const char* name : {"tokenizer_config.json", "special_tokens_map.json"}) {
    const std::filesystem::path path = folder / name;
    if (!std::filesystem::exists(path)) continue;
    const Json json = read_json_file(path);
    if (!json.is_object()) fail(ErrorCode::format, "{}: not a JSON object", path.string());
    if (!source && path.filename() == "tokenizer_config.json") {
      source = template_of(json, path.string());
      parts.name = path.string() + ": chat_template";
    }
    add_special_tokens(json, path.string(), parts.special_tokens);
  }
  if (!source) return std::nullopt;
  parts.block = parse_block(*source, parts.name);
  return ChatTemplate(std::make_shared<const Parts>(std::move(parts)));
}

std::string ChatTemplate::render(std::span<const ChatMessage> messages, const ChatOptions& options) const {
  std::string json = "[";  // by hand: Json would sort the keys, which tojson shows
  for (const ChatMessage& message : messages) {
    if (json.size() > 1) json += ",";
    json += fmt::format("{{\"role\":{},\"content\":{}}}", Json(valid_utf8(message.role)).dump(),
                        Json(valid_utf8(message.content)).dump());
  }
  return render_json(json + "]", options);
}

std::string ChatTemplate::render_json(std::string_view messages, const ChatOptions& options) const {
  return named(parts_->name, [&] {
    jinja::Budget budget;
    jinja::Variables variables;
    variables["tools"] = jinja::Value::none();
    variables["documents"] = jinja::Value::none();
    for (const auto& [name, token] : parts_->special_tokens) variables[name] = jinja::Value::of(token);
    if (!options.variables.empty()) {
      const jinja::Value given = jinja::from_json(budget, valid_utf8(options.variables), "the variables");
      if (given.dict() == nullptr) fail(ErrorCode::invalid_argument, "the variables are not a JSON object");
      for (const auto& [name, value] : given.dict()->items) variables[*name.string()] = value;
    }
    variables["messages"] = jinja::from_json(budget, valid_utf8(messages), "the messages");
    const jinja::ListData* list = variables["messages"].list();
    if (list == nullptr) fail(ErrorCode::invalid_argument, "the messages are not a JSON array");
    for (const jinja::Value& message : list->items) {
      if (message.dict() == nullptr) fail(ErrorCode::invalid_argument, "a message is not a JSON object");
    }
    variables["add_generation_prompt"] = jinja::Value::of(options.add_generation_prompt);
    return jinja::render_template(parts_->block, std::move(variables), budget);
  });
}

}  // namespace wick
