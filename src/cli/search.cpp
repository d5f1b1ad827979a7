#include <unistd.h>

#include <algorithm>
#include <map>

#include "cli/cli.h"
#include "cli/embedding_options.h"
#include "cli/text_input.h"
#include "core/fail.h"
#include "io/json.h"
#include "io/mapped_file.h"
#include "wick/search.h"

namespace wick::cli {
namespace {

struct Options {
  EmbeddingOptions embedding;
  TextInputOptions texts{.input = ""};
  std::string index;
  std::vector<std::string> queries;
  std::int64_t k = 5;
  std::string similarity = "cosine";
  std::string format = "text";
};

const std::map<std::string, Similarity> kSimilarities = {{"cosine", Similarity::cosine}, {"dot", Similarity::dot}};

// The lines that an index was made from, found by their number.
class Texts {
 public:
  Texts(const TextInputOptions& options, std::int64_t rows)
      : file_(MappedFile::open(options.input)), jsonl_(options.is_jsonl()) {
    std::string_view rest(reinterpret_cast<const char*>(file_->bytes().data()), file_->bytes().size());
    if (rest.starts_with("\xef\xbb\xbf")) rest.remove_prefix(3);
    while (!rest.empty()) {
      const std::size_t end = std::min(rest.find('\n'), rest.size());
      std::string_view line = rest.substr(0, end);
      rest.remove_prefix(std::min(end + 1, rest.size()));
      if (line.ends_with('\r')) line.remove_suffix(1);
      if (!jsonl_ || line.find_first_not_of(" \t\r") != std::string_view::npos) lines_.push_back(line);
    }
    if (std::ssize(lines_) != rows) {
      fail(ErrorCode::format, "{}: has {} texts, the index {} rows: it was not made from these lines, all of them",
           options.input, lines_.size(), rows);
    }
  }

  std::string operator[](std::int64_t row) const {
    return text_of_line(lines_[static_cast<std::size_t>(row)], jsonl_, fmt::format("text {}", row));
  }

 private:
  std::shared_ptr<const MappedFile> file_;
  std::vector<std::string_view> lines_;
  bool jsonl_;
};

void check_columns(const EmbeddingIndex& index, const PromptedModel& model, const Options& o) {
  if (index.columns() == model.columns()) return;
  const std::int64_t all = model.model().dimension();
  const bool shorter = o.embedding.truncate_dim == 0 && index.columns() < all;
  fail(ErrorCode::invalid_argument, "{}: has {} columns, the model's embeddings {}{}", o.index, index.columns(),
       model.columns(),
       shorter
           ? fmt::format(": if it was made with --truncate-dim {0}, search with --truncate-dim {0}", index.columns())
           : "");
}

std::string describe_hits(const Options& o, const std::string& query, std::span<const SearchHit> hits,
                          const Texts* texts) {
  if (o.format == "jsonl") {
    Json list = Json::array();
    for (const SearchHit& hit : hits) {
      list.push_back({{"row", hit.row}, {"score", hit.score}});
      if (texts != nullptr) list.back()["text"] = (*texts)[hit.row];
    }
    return dump_json_line({{"query", query}, {"hits", list}}) + "\n";
  }
  std::string out = one_line(query) + "\n";
  for (const SearchHit& hit : hits) {
    out += fmt::format("{:8.4f}  {}", hit.score, hit.row);
    if (texts != nullptr) out += "  " + one_line((*texts)[hit.row]);
    out += "\n";
  }
  return out;
}

void run(const Options& o) {
  install_signal_handlers();
  const EmbeddingIndex index = EmbeddingIndex::open(o.index);
  const std::optional<Texts> texts =
      o.texts.input.empty() ? std::nullopt : std::optional<Texts>({o.texts, index.rows()});
  const PromptedModel model(o.embedding, "query");
  check_columns(index, model, o);
  const auto answer = [&](std::span<const std::string> queries) {
    std::vector<std::vector<TokenId>> tokens;
    for (const std::string& query : queries) {
      tokens.push_back(model.tokenize(query));
      if (tokens.back().empty()) fail(ErrorCode::invalid_argument, "the query \"{}\" has no tokens", query);
    }
    const auto hits = index.search(model.embed(tokens, 65536), o.k, kSimilarities.at(o.similarity));
    for (std::size_t i = 0; i < queries.size(); ++i) {
      print(describe_hits(o, queries[i], hits[i], texts ? &*texts : nullptr));
    }
  };
  if (!o.queries.empty()) {
    for (const std::string& query : o.queries) static_cast<void>(text_of_line(query, false, "--query"));
    return answer(o.queries);
  }
  // Somebody who types waits for each answer.
  const std::size_t at_once = ::isatty(STDIN_FILENO) == 1 ? 1 : 64;
  TextInput input({.input = "-", .format = "text"});
  std::vector<std::string> queries;
  while (!stop_requested) {
    const std::optional<std::string_view> query = input.next();
    if (query) queries.push_back(input.text_of(*query, input.line()));
    if (queries.size() >= at_once || (!query && !queries.empty())) {
      answer(queries);
      queries.clear();
    }
    if (!query) break;
  }
  if (stop_requested) fail(ErrorCode::interrupted, "interrupted");
}

}  // namespace

void add_search(CLI::App& app) {
  CLI::App* verb = app.add_subcommand("search", "the texts nearest to a query, among embeddings made by wick embed");
  const auto o = std::make_shared<Options>();
  verb->add_option("--index", o->index, "the embeddings: a .npy or safetensors file")->required()->type_name("FILE");
  o->embedding.add_to(*verb);
  verb->add_option("--query", o->queries,
                   "what to search for; may be given several times; default: lines of standard input")
      ->type_name("TEXT")
      ->allow_extra_args(false);
  verb->add_option("-k,--top", o->k, "hits for each query")->check(positive())->capture_default_str();
  verb->add_option("--similarity", o->similarity, "cosine, whatever the lengths of the vectors, or dot: their product")
      ->check(CLI::IsMember(kSimilarities))
      ->capture_default_str();
  verb->add_option("--input", o->texts.input, "the texts that the index was made from, to print those that are hits")
      ->type_name("FILE");
  o->texts.add_format_to(*verb);
  verb->add_option("--format", o->format,
                   "text (a line for the query, then score, row and text of each hit),\n"
                   "or jsonl (an object for each query)")
      ->check(CLI::IsMember({"text", "jsonl"}))
      ->capture_default_str();
  verb->footer(help_footer(
      "Example: wick search --model DIR --index lines.npy --input lines.txt --query \"trains to the coast\" -k 5\n\n"
      "Every row is compared, so the hits are exact. Rows count from 0; of equal scores the first row comes first. "
      "Without\n--prompt and --prompt-name the model's prompt \"query\" is used where it has one, else its default."));
  verb->callback([o] { run(*o); });
}

}  // namespace wick::cli
