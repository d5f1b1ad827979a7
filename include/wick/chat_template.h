#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace wick {

struct ChatMessage {
  std::string role;  ///< "system", "user", "assistant", or what else the template knows
  std::string content;
};

struct ChatOptions {
  /// End with the words that open the assistant's answer.
  bool add_generation_prompt = true;
  /// A JSON object of further variables for the template, such as {"tools": [...], "enable_thinking": false}. They
  /// replace variables of the same name that came from the model folder.
  std::string variables = "{}";
};

/// A chat template in the Jinja dialect of Hugging Face model folders (Jinja 3.1 with trim_blocks and lstrip_blocks, as
/// transformers renders it): it turns a conversation into the text that the model was trained on.
///
/// Supported: expressions, the statements if, for, set, macro, generation, filter, break, continue and raw, and the
/// filters, tests, methods and functions that published chat templates use. A statement outside this set is an
/// Error(unsupported) when the template is parsed, anything else when the rendering reaches it. upper and lower map
/// single characters.
///
/// Templates are foreign code: parsing and rendering bound nesting, steps, memory and output, and never run anything
/// outside the template. Errors name the template and the line: Error(format) for broken syntax, a wrong type, an
/// undefined value or an exceeded bound; Error(invalid_argument) for messages or variables that are not the expected
/// JSON, and when the template itself refuses the conversation (raise_exception).
/// Const members may be called from several threads at once. Copies are cheap.
class ChatTemplate {
 public:
  /// Parses the text of a template; `name` is what error messages call it.
  static ChatTemplate parse(std::string_view source, const std::string& name);
  /// The template of a model folder: chat_template.jinja, or "chat_template" in tokenizer_config.json (a string, or a
  /// list of {name, template} with one named "default"). The special tokens (bos_token, eos_token, ...) of
  /// tokenizer_config.json and special_tokens_map.json become variables. Nothing where the folder has no template.
  static std::optional<ChatTemplate> from_folder(const std::filesystem::path& folder);

  /// The text of a conversation. Bytes in it that are not UTF-8 become U+FFFD.
  std::string render(std::span<const ChatMessage> messages, const ChatOptions& options = {}) const;
  /// render() for messages that hold more than a role and a content (tool calls, parts): a JSON array of objects.
  std::string render_json(std::string_view messages, const ChatOptions& options = {}) const;

 private:
  struct Parts;
  explicit ChatTemplate(std::shared_ptr<const Parts> parts);
  std::shared_ptr<const Parts> parts_;
};

}  // namespace wick
