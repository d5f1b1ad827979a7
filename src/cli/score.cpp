#include <cmath>

#include "cli/cli.h"
#include "core/fail.h"
#include "io/json.h"
#include "wick/ops.h"
#include "wick/safetensors.h"

namespace wick::cli {
namespace {

struct Options {
  ModelOptions model;
  std::optional<std::string> ids;
  std::optional<std::string> ids_file;
  std::optional<std::string> text;
  std::string logits;
  bool json = false;
};

std::vector<std::vector<TokenId>> read_sequences(const Options& options) {
  if (options.ids) return {parse_ids(*options.ids, "--ids")};
  if (options.text) {
    const std::filesystem::path file = std::filesystem::path(options.model.model) / "tokenizer.json";
    return {Tokenizer::from_file(file, {.truncate = false}).encode_ids(*options.text)};
  }
  const Json lists = read_json_file(*options.ids_file);
  if (!lists.is_array()) fail(ErrorCode::format, "{}: expected a list of lists of ids", *options.ids_file);
  std::vector<std::vector<TokenId>> sequences;
  for (std::size_t i = 0; i < lists.size(); ++i) {
    const std::string where = fmt::format("{}[{}]", *options.ids_file, i);
    sequences.push_back(get<std::vector<TokenId>>(Json::object({{"ids", lists[i]}}), "ids", where));
  }
  return sequences;
}

// log p(ids[t + 1] | ids[..t]) for each t but the last.
std::vector<float> log_probabilities(const Decoder& model, const Tensor& hidden, std::span<const TokenId> ids) {
  const auto count = static_cast<std::int64_t>(ids.size()) - 1;
  if (count < 1) return {};
  const Tensor targets = Tensor::from(ids.subspan(1), {count}).to(model.device());
  return token_log_probs(hidden.slice(0, 0, count), model.head(), targets).to_vector<float>();
}

void run(const Options& options) {
  const std::vector<std::vector<TokenId>> sequences = read_sequences(options);
  const LoadedModel loaded = load_model(options.model);
  const auto [tokenizer, problem] = options.json ? TriedTokenizer{} : try_tokenizer(options.model.model);
  if (!problem.empty()) print_note(fmt::format("ids without text: {}", problem));
  for (std::size_t i = 0; i < sequences.size(); ++i) {
    const std::string where = options.ids_file ? fmt::format("{}[{}]", *options.ids_file, i)
                              : options.ids    ? "--ids"
                                               : "--text";
    check_ids(sequences[i], loaded.decoder.config(), where,
              options.ids_file ? ErrorCode::format : ErrorCode::invalid_argument);
  }
  std::vector<SafetensorsEntry> entries;
  Json results = Json::array();
  double total = 0;
  std::size_t scored = 0;
  for (std::size_t i = 0; i < sequences.size(); ++i) {
    const std::vector<TokenId>& ids = sequences[i];
    const Tensor hidden = loaded.decoder.forward(TokenBatch::single(ids));
    if (!options.logits.empty())
      entries.push_back(make_entry(fmt::format("logits.{}", i), loaded.decoder.logits(hidden).to(Device::cpu())));
    const std::vector<float> log_probs = log_probabilities(loaded.decoder, hidden, ids);
    double sum = 0;
    for (const float value : log_probs) sum += static_cast<double>(value);
    total += sum;
    scored += log_probs.size();
    const double mean = log_probs.empty() ? 0 : sum / static_cast<double>(log_probs.size());
    if (options.json) {
      results.push_back({{"ids", ids},
                         {"log_probs", log_probs},
                         {"sum", sum},
                         {"perplexity", log_probs.empty() ? Json() : Json(std::exp(-mean))}});
      continue;
    }
    for (std::size_t t = 0; t < log_probs.size(); ++t) {
      const TokenId id = ids[t + 1];
      const std::string piece = tokenizer ? tokenizer->id_to_token(id).value_or("") : "";
      print(fmt::format("{:6} {:8} {:10.5f}  {}\n", t + 1, id, log_probs[t], piece));
    }
    if (!log_probs.empty()) {
      print(fmt::format("sequence {}: {} tokens scored, mean log-probability {:.5f}, perplexity {:.4f}\n", i,
                        log_probs.size(), mean, std::exp(-mean)));
    }
  }
  if (!options.logits.empty()) write_safetensors(options.logits, entries);
  const double mean = scored == 0 ? 0 : total / static_cast<double>(scored);
  if (options.json) {
    print(dump_json_line({{"sequences", results},
                          {"tokens", scored},
                          {"mean_log_prob", scored == 0 ? Json() : Json(mean)},
                          {"perplexity", scored == 0 ? Json() : Json(std::exp(-mean))}}) +
          "\n");
  } else if (sequences.size() > 1 && scored > 0) {
    print(fmt::format("all: {} tokens scored, mean log-probability {:.5f}, perplexity {:.4f}\n", scored, mean,
                      std::exp(-mean)));
  }
}

}  // namespace

void add_score(CLI::App& app) {
  CLI::App* verb = app.add_subcommand("score", "per-token log-probabilities and perplexity of a text");
  const auto options = std::make_shared<Options>();
  options->model.add_to(*verb);
  CLI::Option_group* input = verb->add_option_group("input");
  input->add_option("--ids", options->ids, "token ids, a JSON list: '[5, 6, 7]'");
  input->add_option("--ids-file", options->ids_file, "a JSON file with a list of lists of token ids")
      ->type_name("FILE");
  input->add_option("--text", options->text, "a text, tokenized by the model's tokenizer.json");
  input->require_option(1);
  verb->add_option("--logits", options->logits,
                   "write logits.0, logits.1, ... (f32 [tokens, vocab]) to this safetensors file")
      ->type_name("FILE");
  verb->add_flag("--json", options->json, "print one JSON object");
  verb->footer(help_footer("Example: wick score --model DIR --adapter-path OUT --text \"Once upon a time\" --json"));
  verb->callback([options] { run(*options); });
}

}  // namespace wick::cli
