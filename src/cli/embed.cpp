#include <unistd.h>
#include <algorithm>
#include <chrono>
#include <map>
#include <numeric>

#include "cli/cli.h"
#include "cli/embedding_options.h"
#include "cli/embedding_writer.h"
#include "cli/progress.h"
#include "cli/text_input.h"
#include "cli/tokenizer_thread.h"
#include "core/fail.h"
#include "core/format_count.h"

namespace wick::cli {
namespace {

struct Options {
  EmbeddingOptions embedding;
  TextInputOptions texts;
  std::string format = "jsonl";
  std::string output;
  std::int64_t batch_tokens = 65536;
  bool skip_bad = false;
};

const std::map<std::string, EmbeddingFormat> kFormats = {{"jsonl", EmbeddingFormat::jsonl},
                                                         {"f32", EmbeddingFormat::f32},
                                                         {"npy", EmbeddingFormat::npy},
                                                         {"safetensors", EmbeddingFormat::safetensors}};

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// What was done so far, and how long it took.
struct Totals {
  double begin = now();
  std::int64_t texts = 0;
  std::int64_t tokens = 0;
  std::size_t skipped = 0;
  double computing = 0;

  std::string status() const {
    return fmt::format("{} texts  {} tokens/s", format_count(texts), rate(tokens, now() - begin));
  }
  // "3,456", of something counted over some seconds.
  static std::string rate(std::int64_t count, double seconds) {
    return format_count(std::llround(static_cast<double>(count) / std::max(seconds, 1e-9)));
  }
};

// The embeddings of one part, in its order. Texts of like length are computed together, and between batches somebody
// may ask to stop.
Tensor embed_part(const PromptedModel& model, const TokenizedTexts& part, std::int64_t batch_tokens, Totals& totals,
                  ProgressPrinter* progress) {
  const double begin = now();
  std::vector<std::size_t> order(part.texts.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::ranges::stable_sort(order, std::greater(), [&](std::size_t i) { return part.texts[i].size(); });
  const Tensor result = Tensor::empty({std::ssize(part.texts), model.columns()}, DType::f32);
  for (std::size_t first = 0, end = 0; first < order.size(); first = end) {
    if (stop_requested) fail(ErrorCode::interrupted, "interrupted");
    std::vector<std::vector<TokenId>> batch;
    std::int64_t tokens = 0;
    for (; end < order.size(); ++end) {
      const std::vector<TokenId>& text = part.texts[order[end]];
      if (!batch.empty() && tokens + std::ssize(text) > batch_tokens) break;
      tokens += std::ssize(text);
      batch.push_back(text);
    }
    const Tensor rows = model.embed(batch, batch_tokens);
    for (std::size_t i = first; i < end; ++i) {
      result.select(0, static_cast<std::int64_t>(order[i]))
          .copy_from(rows.select(0, static_cast<std::int64_t>(i - first)));
    }
    totals.texts += std::ssize(batch);
    totals.tokens += tokens;
    if (progress != nullptr) progress->status(totals.status());
  }
  totals.computing += now() - begin;
  return result;
}

void run(const Options& o) {
  install_signal_handlers();
  const PromptedModel model(o.embedding, std::nullopt);
  EmbeddingWriter writer(kFormats.at(o.format), o.output, model.columns());
  // Some batches at a time, so that texts of like length meet; not so many that the texts of a part need much memory.
  const std::int64_t part_tokens = std::max(o.batch_tokens, std::min<std::int64_t>(16 * o.batch_tokens, 1 << 18));
  TokenizerThread tokenizer(
      o.texts, [&](std::string_view text) { return model.tokenize(text); }, part_tokens, o.skip_bad);
  ProgressPrinter printer = ProgressPrinter::on_stderr();
  // A line that is rewritten has no place between results.
  ProgressPrinter* const progress = o.output.empty() && ::isatty(STDOUT_FILENO) == 1 ? nullptr : &printer;
  Totals totals;
  try {
    while (const std::optional<TokenizedTexts> part = tokenizer.next()) {
      for (const std::string& bad : part->bad) printer.message(one_line(bad));
      totals.skipped += part->bad.size();
      writer.write(embed_part(model, *part, o.batch_tokens, totals, progress));
    }
    if (stop_requested) fail(ErrorCode::interrupted, "interrupted");
    writer.finish();
  } catch (...) {
    printer.finish();  // the message gets a line of its own
    throw;
  }
  printer.finish();
  const double seconds = now() - totals.begin;
  print_note(fmt::format("{} texts, {} columns{}", totals.texts, model.columns(),
                         totals.skipped == 0 ? "" : fmt::format("; {} lines skipped", totals.skipped)));
  if (totals.texts == 0) return;
  print_note(fmt::format("{} tokens in {:.2f} s: {} texts/s, {} tokens/s (tokenizing alone {}, computing alone {})",
                         format_count(totals.tokens), seconds, Totals::rate(totals.texts, seconds),
                         Totals::rate(totals.tokens, seconds), Totals::rate(totals.tokens, tokenizer.busy_seconds()),
                         Totals::rate(totals.tokens, totals.computing)));
}

}  // namespace

void add_embed(CLI::App& app) {
  CLI::App* verb = app.add_subcommand("embed", "texts as vectors, with a sentence-embedding model");
  const auto o = std::make_shared<Options>();
  o->embedding.add_to(*verb);
  verb->add_option("--input", o->texts.input, "a text on each line; default: standard input")->type_name("FILE");
  o->texts.add_format_to(*verb);
  verb->add_option("--format", o->format,
                   "jsonl ({\"embedding\": [...]} on a line for each text), f32 (rows of 32-bit floats,\n"
                   "little-endian, one after another), npy (for numpy.load) or safetensors (a tensor\n"
                   "\"embeddings\")")
      ->check(CLI::IsMember(kFormats))
      ->capture_default_str();
  verb->add_option("--output", o->output,
                   "the file to write, which appears when all is done; default: standard output\n"
                   "(jsonl and f32)")
      ->type_name("FILE");
  verb->add_option("--batch-tokens", o->batch_tokens, "tokens that are computed at once")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 24))
      ->capture_default_str();
  verb->add_flag("--skip-bad", o->skip_bad, "skip lines that are not what they should be, and count them");
  verb->footer(help_footer(
      "Example: wick embed --model DIR --input lines.txt --format npy --output lines.npy\n\n"
      "Rows are in the order of the texts. Without --prompt and --prompt-name the model's default prompt is used,\n"
      "which most have none of."));
  verb->callback([o] { run(*o); });
}

}  // namespace wick::cli
