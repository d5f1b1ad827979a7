// `wick embed` on the tiny encoder of data/encoder.
#include <gtest/gtest.h>

#include <cstring>
#include <sstream>

#include "cli_test_util.h"
#include "io/json.h"

namespace wick::test {
namespace {

class CliEmbed : public testing::Test {
 protected:
  CliEmbed() {
    fs::copy(fs::path(WICK_TEST_DATA) / "encoder", model_, fs::copy_options::recursive);
    fs::copy_file(fs::path(WICK_TEST_DATA) / "tokenizer" / "bert.json", model_ / "tokenizer.json");
    const Json expected = read_json_file(model_ / "expected.json");
    texts_ = expected["texts"].get<std::vector<std::string>>();
    vectors_ = expected["cases"][0]["vectors"].get<std::vector<std::vector<float>>>();
  }
  std::vector<std::string> words(std::initializer_list<std::string> more = {}) const {
    std::vector<std::string> all = {"embed", "--model", model_, "--device", "cpu"};
    all.insert(all.end(), more);
    return all;
  }
  std::string lines() const {
    std::string all;
    for (const std::string& text : texts_) all += text + "\n";
    return all;
  }
  static void expect_near(const std::vector<float>& found, const std::vector<float>& expected) {
    ASSERT_EQ(found.size(), expected.size());
    for (std::size_t i = 0; i < found.size(); ++i) EXPECT_NEAR(found[i], expected[i], 2e-6);
  }

  TempDir dir_;
  fs::path model_ = dir_ / "model";
  std::vector<std::string> texts_;
  std::vector<std::vector<float>> vectors_;
};

TEST_F(CliEmbed, LinesInTheirOrder) {
  for (const char* batch_tokens : {"8192", "1"}) {
    const RunResult run = wick(words({"--batch-tokens", batch_tokens}), {.input = lines()});
    ASSERT_EQ(run.code, 0) << run.err;
    std::istringstream out(run.out);
    std::string line;
    std::size_t i = 0;
    for (; std::getline(out, line); ++i) {
      expect_near(parse_json(line, "out")["embedding"].get<std::vector<float>>(), vectors_.at(i));
    }
    EXPECT_EQ(i, texts_.size());
    EXPECT_NE(run.err.find("7 texts, 16 columns"), std::string::npos) << run.err;
  }
}

TEST_F(CliEmbed, ObjectsFromAFileAsFloats) {
  std::string all;
  for (const std::string& text : texts_) all += dump_json_line({{"text", text}}) + "\n";
  write_file(dir_ / "in.jsonl", all);
  const std::string out = expect_success(words({"--input", dir_ / "in.jsonl", "--format", "f32"}));
  ASSERT_EQ(out.size(), texts_.size() * 16 * sizeof(float));
  for (std::size_t i = 0; i < texts_.size(); ++i) {
    std::vector<float> row(16);
    std::memcpy(row.data(), out.data() + i * 16 * sizeof(float), 16 * sizeof(float));
    expect_near(row, vectors_[i]);
  }
}

TEST_F(CliEmbed, PromptAndFewerColumns) {
  const std::string prompted = expect_success(words({"--prompt", "hel"}), {.input = "lo\n"});
  EXPECT_EQ(prompted, expect_success(words(), {.input = "hello\n"}));
  const auto row = parse_json(expect_success(words({"--truncate-dim", "3"}), {.input = "hello\n"}), "out")["embedding"]
                       .get<std::vector<float>>();
  ASSERT_EQ(row.size(), 3U);
  EXPECT_NEAR(row[0] * row[0] + row[1] * row[1] + row[2] * row[2], 1, 1e-6);
  EXPECT_NEAR(row[1] / row[0], vectors_[1][1] / vectors_[1][0], 1e-4);
}

TEST_F(CliEmbed, NamesAndSkipsBadLines) {
  const std::string bad = "{\"text\": \"hello\"}\n{\"texts\": 1}\nnothing\n{\"text\": \"a b c d e\"}\n";
  const RunResult refused = wick(words({"--input-format", "jsonl"}), {.input = bad});
  EXPECT_EQ(refused.code, 3);
  EXPECT_NE(refused.err.find("standard input:2"), std::string::npos) << refused.err;
  const RunResult skipped = wick(words({"--input-format", "jsonl", "--skip-bad"}), {.input = bad});
  EXPECT_EQ(skipped.code, 0) << skipped.err;
  EXPECT_NE(skipped.err.find("2 texts, 16 columns; 2 lines skipped"), std::string::npos) << skipped.err;
  EXPECT_EQ(skipped.out, expect_success(words(), {.input = "hello\na b c d e\n"}));
  EXPECT_EQ(wick(words({"--truncate-dim", "17"}), {.input = "hello\n"}).code, 2);
  EXPECT_EQ(wick(words({"--input", dir_ / "missing"})).code, 3);
}

TEST_F(CliEmbed, AnAdapterOfPeft) {
  const Json expected = read_json_file(model_ / "adapter_expected.json");
  vectors_ = expected["vectors"].get<std::vector<std::vector<float>>>();
  std::istringstream out(expect_success(words({"--adapter", model_ / "adapter"}), {.input = lines()}));
  std::string line;
  for (std::size_t i = 0; std::getline(out, line); ++i) {
    expect_near(parse_json(line, "out")["embedding"].get<std::vector<float>>(), vectors_.at(i));
  }
}

}  // namespace
}  // namespace wick::test
