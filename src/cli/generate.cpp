#include "wick/generate.h"

#include <optional>
#include <string>
#include <vector>

#include "cli/cli.h"
#include "cli/profile_option.h"
#include "core/fail.h"
#include "io/json.h"
#include "wick/chat_template.h"

namespace wick::cli {
namespace {

struct Options {
  ModelOptions model;
  std::string prompt;
  std::optional<std::string> ids;
  bool chat = false;
  std::optional<std::string> system;
  GenerateOptions generate;
  std::string profile;
  bool quiet = false;
  bool json = false;
};

// The prompt as a user's message, in the words of the model's chat template.
std::string chat_prompt(const Options& o) {
  const std::optional<ChatTemplate> chat = ChatTemplate::from_folder(o.model.model);
  if (!chat) {
    fail(ErrorCode::invalid_argument,
         "--chat: {} has no chat template, neither as chat_template.jinja nor in tokenizer_config.json", o.model.model);
  }
  std::vector<ChatMessage> messages;
  if (o.system) messages.push_back({"system", *o.system});
  messages.push_back({"user", o.prompt});
  return chat->render(messages);
}

void run(const Options& o) {
  o.generate.validate();
  const std::string prompt_text = o.chat ? chat_prompt(o) : o.prompt;
  const LoadedModel loaded = load_model(o.model);
  if (!o.generate.stop_tokens.empty()) {
    check_ids(o.generate.stop_tokens, loaded.decoder.config(), "--stop-token", ErrorCode::invalid_argument);
  }
  const auto [tokenizer, problem] =
      o.ids ? try_tokenizer(o.model.model) : TriedTokenizer{load_tokenizer(o.model.model)};
  if (!problem.empty()) print_note(fmt::format("ids without text: {}", problem));
  std::vector<TokenId> prompt;
  if (o.ids) {
    prompt = parse_ids(*o.ids, "--ids");
    check_ids(prompt, loaded.decoder.config(), "--ids", ErrorCode::invalid_argument);
  } else if (tokenizer) {
    // A chat template spells out its special tokens.
    prompt = tokenizer->encode_ids(prompt_text, !o.chat);
  } else {
    fail(ErrorCode::invalid_argument, "{} has no tokenizer.json: give the prompt as --ids", o.model.model);
  }
  install_signal_handlers();
  const bool stream = !o.json && tokenizer.has_value();
  if (stream && !o.quiet && !o.chat) print(o.prompt);
  std::optional<Profile> profile;
  if (!o.profile.empty()) profile.emplace(loaded.decoder.device());
  const GenerateResult result = generate(loaded.decoder, tokenizer ? &*tokenizer : nullptr, prompt, o.generate,
                                         [&](std::string_view text, std::int32_t) {
                                           if (stream && !text.empty()) print(std::string(text));
                                           return !stop_requested.load();
                                         });
  if (o.json) {
    print(dump_json_line({{"ids", result.ids},
                          {"text", result.text},
                          {"finish_reason", to_string(result.finish_reason)},
                          {"prompt_tokens", result.prompt_tokens},
                          {"prefill_seconds", result.prefill_seconds},
                          {"decode_seconds", result.decode_seconds}}) +
          "\n");
  } else if (stream) {
    print("\n");
  } else {
    print(Json(result.ids).dump() + "\n");
  }
  if (!o.json) {
    const double seconds = result.decode_seconds;
    print_note(fmt::format("{} prompt tokens in {:.2f} s, {} new tokens in {:.2f} s ({:.1f} tokens/s), {}; {}",
                           result.prompt_tokens, result.prefill_seconds, result.ids.size(), seconds,
                           seconds > 0 ? static_cast<double>(result.ids.size()) / seconds : 0.0,
                           to_string(result.finish_reason),
                           computing_in(loaded.decoder.dtype(), loaded.decoder.device())));
  }
  if (profile) {
    report_profile(o.profile, profile->stop(), loaded.decoder.device(), loaded.decoder.dtype(), "wick generate");
  }
  if (result.finish_reason == FinishReason::interrupted) fail(ErrorCode::interrupted, "interrupted");
}

}  // namespace

void add_generate(CLI::App& app) {
  CLI::App* verb = app.add_subcommand("generate", "continue a prompt, streamed to standard output");
  const auto o = std::make_shared<Options>();
  o->model.add_to(*verb);
  CLI::Option_group* input = verb->add_option_group("input");
  input->add_option("--prompt", o->prompt, "text to continue");
  input->add_option("--ids", o->ids, "token ids to continue, a JSON list");
  input->require_option(1);
  CLI::Option* chat =
      verb->add_flag("--chat", o->chat, "put the prompt into the model's chat template, as a user's message");
  chat->excludes("--ids");
  verb->add_option("--system", o->system, "system message before the prompt")->needs(chat);
  GenerateOptions& g = o->generate;
  verb->add_option("--max-tokens", g.max_tokens, "new tokens at most")->capture_default_str();
  verb->add_option("--temperature", g.sampling.temperature, "0: greedy")->capture_default_str();
  verb->add_option("--top-k", g.sampling.top_k, "keep the k most probable tokens; 0: all")->capture_default_str();
  verb->add_option("--top-p", g.sampling.top_p, "keep the fewest tokens that reach this probability")
      ->capture_default_str();
  verb->add_option("--min-p", g.sampling.min_p, "drop tokens less probable than this share of the best")
      ->capture_default_str();
  verb->add_option("--repetition-penalty", g.sampling.repetition_penalty,
                   "divides the logits of tokens that were there; 1: none")
      ->capture_default_str();
  verb->add_option("--seed", g.seed, "of the sampling")->check(unsigned_number())->capture_default_str();
  verb->add_flag("--ignore-eos", g.ignore_eos, "go on after an end-of-sequence token");
  verb->add_option("--stop", g.stop_strings, "end where this text appears; may be given several times");
  verb->add_option("--stop-token", g.stop_tokens, "end at this token id; may be given several times");
  add_profile_option(*verb, o->profile, "prompt and new tokens");
  verb->add_flag("--quiet", o->quiet, "do not repeat the prompt");
  verb->add_flag("--json", o->json, "print one JSON object with the new ids and the text");
  verb->footer(
      help_footer("Example: wick generate --model DIR --adapter-path OUT --prompt \"Once upon a time\" "
                  "--temperature 0.7"));
  verb->callback([o] { run(*o); });
}

}  // namespace wick::cli
