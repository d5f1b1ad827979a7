#include <iostream>
#include <iterator>

#include "cli/cli.h"
#include "core/fail.h"
#include "io/json.h"

namespace wick::cli {
namespace {

struct Options {
  std::string model;
  std::optional<std::string> text;
  std::optional<std::string> ids;
  bool no_special_tokens = false;
  bool skip_special_tokens = false;
  bool json = false;
};

void run(const Options& options) {
  std::filesystem::path file = options.model;
  if (std::filesystem::is_directory(file)) file /= "tokenizer.json";
  const Tokenizer tokenizer = Tokenizer::from_file(file);
  if (options.ids) {
    const std::string text = tokenizer.decode(parse_ids(*options.ids, "--decode"), options.skip_special_tokens);
    print((options.json ? dump_json_line({{"text", text}}) : text) + "\n");
    return;
  }
  const std::string text = options.text ? *options.text : std::string(std::istreambuf_iterator<char>(std::cin), {});
  const Encoding encoding = tokenizer.encode(text, !options.no_special_tokens);
  if (options.json) {
    Json tokens = Json::array();
    for (const TokenId id : encoding.ids) tokens.push_back(tokenizer.id_to_token(id).value_or(""));
    print(dump_json_line({{"ids", encoding.ids}, {"tokens", tokens}, {"offsets", encoding.offsets}}) + "\n");
    return;
  }
  for (std::size_t i = 0; i < encoding.ids.size(); ++i) {
    print(fmt::format("{:8}  [{}, {})  {}\n", encoding.ids[i], encoding.offsets[i].first, encoding.offsets[i].second,
                      tokenizer.id_to_token(encoding.ids[i]).value_or("")));
  }
  print_note(fmt::format("{} tokens", encoding.ids.size()));
}

}  // namespace

void add_tokenize(CLI::App& app) {
  CLI::App* verb = app.add_subcommand("tokenize", "a text as token ids, or ids as a text");
  const auto options = std::make_shared<Options>();
  verb->add_option("--model", options->model, "model folder, or a tokenizer.json")->required()->type_name("PATH");
  CLI::Option* text = verb->add_option("--text", options->text, "the text; default: standard input");
  verb->add_option("--decode", options->ids, "decode these ids instead, a JSON list")->excludes(text);
  verb->add_flag("--no-special-tokens", options->no_special_tokens, "do not add the template's special tokens");
  verb->add_flag("--skip-special-tokens", options->skip_special_tokens, "leave special tokens out of decoded text");
  verb->add_flag("--json", options->json, "print one JSON object");
  verb->footer(help_footer("Example: wick tokenize --model DIR --text \"Once upon a time\" --json"));
  verb->callback([options] { run(*options); });
}

}  // namespace wick::cli
