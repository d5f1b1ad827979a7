#include <fstream>
#include <iostream>
#include <span>

#include "cli/cli.h"
#include "core/fail.h"
#include "io/json.h"
#include "wick/embedding.h"

namespace wick::cli {
namespace {

struct Options {
  ModelOptions model;
  std::string adapter;
  std::string input = "-";
  std::string input_format = "auto";
  std::string format = "jsonl";
  std::string prompt;
  std::int64_t batch_tokens = 8192;
  std::int64_t truncate_dim = 0;
  bool skip_bad = false;
};

// Texts of the input, line by line: plain lines, or objects with a "text".
class Lines {
 public:
  explicit Lines(const Options& o) : name_(o.input == "-" ? "standard input" : o.input) {
    if (o.input != "-") {
      file_.open(o.input, std::ios::binary);
      if (!file_) fail(ErrorCode::io, "{}: cannot be read", o.input);
    }
    jsonl_ = o.input_format == "jsonl" || (o.input_format == "auto" && o.input.ends_with(".jsonl"));
  }

  /// The next line's text; nothing at the end. Error(format) naming the line.
  std::optional<std::string> next() {
    std::string line;
    std::istream& in = file_.is_open() ? static_cast<std::istream&>(file_) : std::cin;
    if (!std::getline(in, line)) {
      if (in.bad()) fail(ErrorCode::io, "{}: cannot be read", name_);
      return std::nullopt;
    }
    ++number_;
    if (!line.empty() && line.back() == '\r') line.pop_back();
    if (!jsonl_) return line;
    const std::string where = fmt::format("{}:{}", name_, number_);
    return get<std::string>(parse_json(line, where), "text", where);
  }

 private:
  std::string name_;
  std::ifstream file_;
  bool jsonl_ = false;
  std::size_t number_ = 0;
};

void write(const Options& o, const Tensor& rows) {
  std::string out;
  for (std::int64_t i = 0; i < rows.size(0); ++i) {
    const std::span row(rows.data<float>() + i * rows.size(1), static_cast<std::size_t>(rows.size(1)));
    if (o.format == "f32") {
      const auto bytes = std::as_bytes(row);
      out.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    } else {
      out += dump_json_line({{"embedding", std::vector<float>(row.begin(), row.end())}}) + "\n";
    }
  }
  print(out);
}

void run(const Options& o) {
  EmbeddingModel model = EmbeddingModel::load(
      o.model.model, {.dtype = dtype_from_string(o.model.dtype), .device = device_from_string(o.model.device)});
  if (!o.adapter.empty()) {
    const std::vector<ModuleInfo>& modules = model.linear_modules();
    model.attach(std::make_shared<const Adapter>(load_adapter(o.adapter, modules), modules, model.device()));
  }
  if (o.truncate_dim > model.dimension()) {
    fail(ErrorCode::invalid_argument, "--truncate-dim is {}, the model has {} columns", o.truncate_dim,
         model.dimension());
  }
  const std::int64_t columns = o.truncate_dim > 0 ? o.truncate_dim : model.dimension();
  Lines lines(o);
  std::size_t done = 0;
  std::size_t skipped = 0;
  std::vector<std::vector<TokenId>> texts;
  std::int64_t tokens = 0;
  const auto flush = [&] {
    if (texts.empty()) return;
    const Tensor rows = model.embed_tokens(texts, o.batch_tokens);
    write(o, columns < model.dimension() ? truncate_embeddings(rows, columns) : rows);
    done += texts.size();
    texts.clear();
    tokens = 0;
  };
  for (bool more = true; more && !stop_requested;) {
    try {
      const std::optional<std::string> text = lines.next();
      more = text.has_value();
      if (more) {
        texts.push_back(model.tokenize(o.prompt + *text));
        tokens += std::ssize(texts.back());
      }
    } catch (const Error& error) {
      if (!o.skip_bad || error.code() != ErrorCode::format) throw;
      print_note(error.what());
      ++skipped;
    }
    // Some batches at a time, so that texts of like length meet.
    if (tokens >= 16 * o.batch_tokens) flush();
  }
  flush();
  print_note(skipped == 0 ? fmt::format("{} texts, {} columns", done, columns)
                          : fmt::format("{} texts, {} columns; {} lines skipped", done, columns, skipped));
}

}  // namespace

void add_embed(CLI::App& app) {
  CLI::App* verb = app.add_subcommand("embed", "texts as vectors, with a sentence-embedding model");
  const auto o = std::make_shared<Options>();
  o->model.add_to(*verb, false);
  verb->add_option("--adapter,--adapter-path", o->adapter, "adapter in PEFT format to apply")->type_name("DIR");
  verb->add_option("--input", o->input, "a text on each line; default: standard input")->type_name("FILE");
  verb->add_option("--input-format", o->input_format,
                   "text, jsonl (objects with a \"text\"), or auto: by the file's name")
      ->check(CLI::IsMember({"auto", "text", "jsonl"}))
      ->capture_default_str();
  verb->add_option("--format", o->format, "jsonl, or f32: rows of 32-bit floats, little-endian, one after another")
      ->check(CLI::IsMember({"jsonl", "f32"}))
      ->capture_default_str();
  verb->add_option("--prompt", o->prompt, "what to put before each text, such as \"query: \"")->type_name("TEXT");
  verb->add_option("--batch-tokens", o->batch_tokens, "tokens that are computed at once")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 24))
      ->capture_default_str();
  verb->add_option("--truncate-dim", o->truncate_dim, "keep the first columns only, and make their length 1")
      ->check(CLI::PositiveNumber);
  verb->add_flag("--skip-bad", o->skip_bad, "skip lines that are not what they should be, and count them");
  verb->callback([o] { run(*o); });
}

}  // namespace wick::cli
