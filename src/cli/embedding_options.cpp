#include "cli/embedding_options.h"

#include "core/fail.h"

namespace wick::cli {

void EmbeddingOptions::add_to(CLI::App& verb) {
  model.add_to(verb, false);
  verb.add_option("--adapter,--adapter-path", adapter, "adapter in PEFT format to apply")->type_name("DIR");
  CLI::Option* const text = verb.add_option("--prompt", prompt, "what to put before each text, such as \"query: \"");
  text->type_name("TEXT");
  verb.add_option("--prompt-name", prompt_name,
                  "the model's prompt of this name, from config_sentence_transformers.json")
      ->type_name("NAME")
      ->excludes(text);
  verb.add_option("--truncate-dim", truncate_dim, "keep the first columns only, and make their length 1")
      ->check(positive());
}

PromptedModel::PromptedModel(const EmbeddingOptions& options, const std::optional<std::string>& preferred)
    : model_(EmbeddingModel::load(options.model.model, options.model.load_options())),
      columns_(options.truncate_dim > 0 ? options.truncate_dim : model_.dimension()) {
  if (!options.adapter.empty()) {
    const std::vector<ModuleInfo>& modules = model_.linear_modules();
    model_.attach(std::make_shared<const Adapter>(load_adapter(options.adapter, modules), modules, model_.device()));
  }
  if (columns_ > model_.dimension()) {
    fail(ErrorCode::invalid_argument, "--truncate-dim is {}, the model has {} columns", columns_, model_.dimension());
  }
  if (options.prompt) {
    prompt_ = *options.prompt;
  } else if (options.prompt_name) {
    try {
      prompt_ = model_.prompt(*options.prompt_name);
    } catch (const Error& error) {
      fail(error.code(), "--prompt-name: {}", error.what());
    }
  } else if (preferred && model_.prompts().contains(*preferred)) {
    prompt_ = model_.prompt(*preferred);
  } else if (model_.default_prompt()) {
    prompt_ = model_.prompt(*model_.default_prompt());
  }
  static_cast<void>(model_.with_prompt(prompt_, ""));  // refused now or never
}

Tensor PromptedModel::embed(std::span<const std::vector<TokenId>> texts, std::int64_t batch_tokens) const {
  const Tensor rows = model_.embed_tokens(texts, batch_tokens);
  return columns_ < model_.dimension() ? truncate_embeddings(rows, columns_) : rows;
}

}  // namespace wick::cli
