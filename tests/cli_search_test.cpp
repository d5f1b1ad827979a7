// `wick search` over what `wick embed` writes, with the tiny encoder of data/encoder.
#include <gtest/gtest.h>

#include "cli_test_util.h"

namespace wick::test {
namespace {

class CliSearch : public testing::Test {
 protected:
  CliSearch() {
    fs::copy(fs::path(WICK_TEST_DATA) / "encoder", model_, fs::copy_options::recursive);
    fs::copy_file(fs::path(WICK_TEST_DATA) / "tokenizer" / "bert.json", model_ / "tokenizer.json");
    write_file(dir_ / "texts", "hello\n\nthe quick brown fox\na b c d e\nhello\n");
    embed("a.npy", "npy");
  }
  void embed(const std::string& name, const std::string& format, const std::vector<std::string>& more = {}) const {
    std::vector<std::string> all = {"embed",        "--model",  model_, "--device", "cpu",      "--input",
                                    dir_ / "texts", "--format", format, "--output", dir_ / name};
    all.insert(all.end(), more.begin(), more.end());
    expect_success(all);
  }
  std::vector<std::string> words(const std::string& index, std::initializer_list<std::string> more = {}) const {
    std::vector<std::string> all = {"search", "--model", model_, "--device", "cpu", "--index", dir_ / index};
    all.insert(all.end(), more);
    return all;
  }

  TempDir dir_;
  fs::path model_ = dir_ / "model";
};

TEST_F(CliSearch, FindsTheTextsThemselves) {
  const Json found =
      expect_json(words("a.npy", {"--query", "hello", "-k", "3", "--format", "jsonl", "--input", dir_ / "texts"}));
  EXPECT_EQ(found["query"], "hello");
  ASSERT_EQ(found["hits"].size(), 3U);
  EXPECT_EQ(found["hits"][0]["row"], 0);
  EXPECT_EQ(found["hits"][1]["row"], 4);  // the same text: the first row comes first
  EXPECT_EQ(found["hits"][0]["text"], "hello");
  EXPECT_NEAR(found["hits"][0]["score"].get<double>(), 1, 1e-5);
  EXPECT_EQ(found["hits"][0]["score"], found["hits"][1]["score"]);
  EXPECT_LT(found["hits"][2]["score"].get<double>(), 0.999);
}

TEST_F(CliSearch, ManyQueriesFromTheCommandLineAndStandardInput) {
  embed("a.safetensors", "safetensors");
  const std::string asked =
      expect_success(words("a.safetensors", {"--query", "a b c d e", "--query", "hello", "-k", "1"}));
  EXPECT_EQ(asked, "a b c d e\n  1.0000  3\nhello\n  1.0000  0\n");
  EXPECT_EQ(expect_success(words("a.npy", {"-k", "1"}), {.input = "a b c d e\nhello\n"}), asked);
  EXPECT_EQ(expect_success(words("a.npy", {"-k", "1", "--similarity", "dot"}), {.input = "a b c d e\nhello"}), asked);
  EXPECT_EQ(expect_success(words("a.npy", {"-k", "1", "--input", dir_ / "texts", "--query", "a b c d e"})),
            "a b c d e\n  1.0000  3  a b c d e\n");
  EXPECT_EQ(expect_success(words("a.npy")), "");
  const std::string all = expect_success(words("a.npy", {"-k", "99", "--query", "x"}));
  EXPECT_EQ(std::count(all.begin(), all.end(), '\n'), 6);
}

TEST_F(CliSearch, CutsTheQueryAsTheIndexWasCut) {
  embed("cut.npy", "npy", {"--truncate-dim", "5"});
  expect_failure(2, {"cut.npy: has 5 columns", "16", "--truncate-dim 5"}, words("cut.npy", {"--query", "hello"}));
  expect_failure(2, {"cut.npy: has 5 columns", "embeddings 6"},
                 words("cut.npy", {"--query", "hello", "--truncate-dim", "6"}));
  EXPECT_EQ(expect_success(words("cut.npy", {"--query", "hello", "-k", "1", "--truncate-dim", "5"})),
            "hello\n  1.0000  0\n");
}

TEST_F(CliSearch, PutsTheQueryPromptInFront) {
  write_file(model_ / "config_sentence_transformers.json",
             R"({"prompts": {"query": "one ", "document": "a b "}, "default_prompt_name": "document"})");
  const auto hit = [&](std::initializer_list<std::string> more) {
    return expect_json(words("a.npy", more))["hits"][0];
  };
  const Json prompted = hit({"--query", "two", "-k", "1", "--format", "jsonl"});
  EXPECT_EQ(prompted, hit({"--query", "one two", "-k", "1", "--format", "jsonl", "--prompt", ""}));
  EXPECT_EQ(hit({"--query", "c d e", "-k", "1", "--format", "jsonl", "--prompt-name", "document"})["row"], 3);
}

TEST_F(CliSearch, RefusesWhatDoesNotFit) {
  expect_failure(3, {"none.npy", "cannot open"}, words("none.npy", {"--query", "x"}));
  write_file(dir_ / "bad.npy", "\x93NUMPY\1");
  expect_failure(3, {"bad.npy"}, words("bad.npy", {"--query", "x"}));
  write_file(dir_ / "fewer", "hello\n");
  expect_failure(3, {"has 1 texts, the index 5 rows"}, words("a.npy", {"--query", "x", "--input", dir_ / "fewer"}));
  expect_failure(3, {"not UTF-8"}, words("a.npy", {"--query", "\xff"}));
  expect_failure(3, {"standard input:1", "not UTF-8"}, words("a.npy"), {.input = "\xff\n"});
  EXPECT_EQ(wick(words("a.npy", {"-k", "0", "--query", "x"})).code, 2);
  EXPECT_EQ(wick(words("a.npy", {"--similarity", "l2", "--query", "x"})).code, 2);
}

}  // namespace
}  // namespace wick::test
