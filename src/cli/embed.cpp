#include <unistd.h>
#include <algorithm>
#include <chrono>
#include <future>
#include <map>

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

// Some batches at a time, so that texts of like length meet and a device always has the next batch; not so many that
// the texts of a part, or their vectors, need much memory. On the CPU somebody may want to stop before that.
PartLimits part_limits(const PromptedModel& model, std::int64_t batch_tokens) {
  const bool host = model.model().device().type == DeviceType::cpu;
  return {.tokens = host ? batch_tokens : std::max(batch_tokens, std::min<std::int64_t>(16 * batch_tokens, 1 << 20)),
          .texts = std::max<std::int64_t>(1, (1 << 24) / model.columns())};
}

// Hands parts to the writer, to a file on a thread of its own while the next part is computed.
class PartWriter {
 public:
  PartWriter(EmbeddingWriter& writer, bool to_file) : writer_(writer), to_file_(to_file) {}

  void write(const Tensor& rows) {
    wait();
    if (!to_file_) return writer_.write(rows);  // a pipe that nobody reads must not keep a signal from being seen
    running_ = std::async(std::launch::async, [this, rows] { writer_.write(rows); });
  }
  /// Errors of the last part come here.
  void wait() {
    if (running_.valid()) running_.get();
  }

 private:
  EmbeddingWriter& writer_;
  bool to_file_;
  std::future<void> running_;
};

void run(const Options& o) {
  install_signal_handlers();
  const PromptedModel model(o.embedding, std::nullopt);
  EmbeddingWriter writer(kFormats.at(o.format), o.output, model.columns());
  PartWriter parts(writer, !o.output.empty());
  TokenizerThread tokenizer(
      o.texts, [&](std::string_view text) { return model.tokenize(text); }, part_limits(model, o.batch_tokens),
      o.skip_bad);
  ProgressPrinter printer = ProgressPrinter::on_stderr();
  // A line that is rewritten has no place between results.
  ProgressPrinter* const progress = o.output.empty() && ::isatty(STDOUT_FILENO) == 1 ? nullptr : &printer;
  Totals totals;
  try {
    while (const std::optional<TokenizedTexts> part = tokenizer.next()) {
      for (const std::string& bad : part->bad) printer.message(one_line(bad));
      totals.skipped += part->bad.size();
      if (stop_requested) fail(ErrorCode::interrupted, "interrupted");
      const double begin = now();
      const Tensor rows = model.embed(part->texts, o.batch_tokens);
      totals.computing += now() - begin;
      totals.texts += std::ssize(part->texts);
      totals.tokens += part->tokens;
      parts.write(rows);
      if (progress != nullptr) progress->status(totals.status());
    }
    if (stop_requested) fail(ErrorCode::interrupted, "interrupted");
    parts.wait();
    writer.finish();
  } catch (...) {
    printer.finish();  // the message gets a line of its own
    throw;
  }
  printer.finish();
  const double seconds = now() - totals.begin;
  print_note(fmt::format("{} texts, {} columns{}; computed in {}", totals.texts, model.columns(),
                         totals.skipped == 0 ? "" : fmt::format("; {} lines skipped", totals.skipped),
                         computing_in(model.model().dtype(), model.model().device())));
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
