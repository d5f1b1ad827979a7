#include <algorithm>
#include <limits>
#include <map>
#include <utility>

#include "core/fail.h"
#include "io/jsonl.h"
#include "train/data_files.h"
#include "wick/contrastive.h"

namespace wick {
namespace {

bool has(const Json& row, const char* key) {
  const auto at = row.find(key);
  return at != row.end() && !at->is_null();
}

// The texts of a row: anchor, positive and perhaps negative.
std::vector<std::string> read_row(const Json& row, const std::string& where) {
  json_detail::find(row, "", where);  // refuses what is no object
  const bool sentences = has(row, "sentence1");
  const bool anchor = has(row, "anchor");
  const int forms = int{sentences} + int{anchor} + int{has(row, "query")};
  if (forms != 1) {
    fail(ErrorCode::format, R"({}: the row has {} of "anchor", "query" and "sentence1", expected one)", where,
         forms == 0 ? "none" : "several");
  }
  if (sentences) return {get<std::string>(row, "sentence1", where), get<std::string>(row, "sentence2", where)};
  std::vector<std::string> texts = {get<std::string>(row, anchor ? "anchor" : "query", where),
                                    get<std::string>(row, "positive", where)};
  if (has(row, "negative")) texts.push_back(get<std::string>(row, "negative", where));
  return texts;
}

// Numbers texts by their tokens.
class TextNumbers {
 public:
  TextNumbers(const EmbeddingModel& model, const PairOptions& options, std::vector<std::vector<TokenId>>& texts,
              PairReport& report)
      : model_(model),
        limit_(options.max_tokens > 0 ? std::min(options.max_tokens, model.max_tokens()) : model.max_tokens()),
        texts_(texts),
        report_(report) {}

  std::int32_t operator()(const std::string& text, const std::string& where) {
    std::vector<TokenId> ids = model_.tokenize(text, limit_);
    if (ids.empty()) fail(ErrorCode::format, "{}: a text has no tokens", where);
    report_.tokens += std::ssize(ids);
    const auto [at, is_new] = numbers_.try_emplace(ids, static_cast<std::int32_t>(texts_.size()));
    if (is_new) {
      if (std::ssize(ids) == limit_ && std::ssize(model_.tokenize(text, limit_ + 1)) > limit_) ++report_.truncated;
      texts_.push_back(std::move(ids));
    }
    return at->second;
  }

 private:
  const EmbeddingModel& model_;
  std::int64_t limit_;
  std::vector<std::vector<TokenId>>& texts_;
  PairReport& report_;
  std::map<std::vector<TokenId>, std::int32_t> numbers_;
};

}  // namespace

PairDataset PairDataset::from_file(const std::filesystem::path& path, const EmbeddingModel& model,
                                   const PairOptions& options) {
  PairDataset data;
  TextNumbers number(model, options, data.texts_, data.report_);
  JsonlReader reader(path);
  std::int64_t first_line = 0;
  while (const auto row = reader.next()) {
    const std::string where = reader.where();
    const std::vector<std::string> texts = read_row(*row, where);
    if (data.rows_.empty()) {
      data.columns_ = std::ssize(texts);
      first_line = reader.line();
    }
    if (std::ssize(texts) != data.columns_) {
      fail(ErrorCode::format, "{}: the row has {} texts, expected {} as in line {}: all are pairs or all are triplets",
           where, texts.size(), data.columns_, first_line);
    }
    std::array<std::int32_t, 3> numbers = {number(options.anchor_prompt + texts[0], where)};
    for (std::size_t i = 1; i < texts.size(); ++i) numbers[i] = number(options.passage_prompt + texts[i], where);
    data.rows_.push_back(numbers);
  }
  if (data.size() < 2) {
    fail(ErrorCode::format, "{}: holds {} rows, expected 2 or more: other rows are the negatives", path.string(),
         data.size());
  }
  data.report_.rows = data.size();
  data.report_.texts = std::ssize(data.texts_);
  return data;
}

std::uint64_t PairDataset::fingerprint() const noexcept {
  // FNV-1a over whole numbers; the lengths keep the borders between texts apart.
  std::uint64_t hash = 0xcbf29ce484222325;
  const auto add = [&hash](std::uint64_t value) { hash = (hash ^ value) * 0x100000001b3; };
  for (std::int64_t row = 0; row < size(); ++row) {
    for (std::int64_t column = 0; column < columns_; ++column) {
      const std::vector<TokenId>& ids = tokens(text(row, column));
      add(ids.size());
      for (const TokenId id : ids) add(static_cast<std::uint32_t>(id));
    }
  }
  return hash;
}

PairSplits load_pairs(const std::filesystem::path& path, const EmbeddingModel& model, const PairOptions& options) {
  const DataFiles files = find_data_files(path);
  PairSplits splits{PairDataset::from_file(files.train, model, options), std::nullopt};
  if (!files.valid) return splits;
  splits.valid = PairDataset::from_file(*files.valid, model, options);
  if (splits.valid->columns() != splits.train.columns()) {
    fail(ErrorCode::format, "{}: rows have {} texts, those of {} have {}", files.valid->string(),
         splits.valid->columns(), files.train.string(), splits.train.columns());
  }
  return splits;
}

}  // namespace wick
