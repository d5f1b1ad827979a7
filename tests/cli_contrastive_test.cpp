// `wick train --task contrastive` on the tiny encoder of data/encoder.
#include <gtest/gtest.h>

#include "cli_test_util.h"
#include "io/json.h"

namespace wick::test {
namespace {

class CliContrastive : public testing::Test {
 protected:
  CliContrastive() {
    fs::copy(fs::path(WICK_TEST_DATA) / "encoder", model_, fs::copy_options::recursive);
    fs::copy_file(fs::path(WICK_TEST_DATA) / "tokenizer" / "bert.json", model_ / "tokenizer.json");
    fs::create_directory(data_);
    for (const char* name : {"train.jsonl", "valid.jsonl"}) {
      std::string lines;
      for (const char* word : {"fox", "dog", "house", "city", "film", "music", "team", "world"}) {
        lines += dump_json_line({{"query", std::string("the ") + word},
                                 {"positive", std::string(word) + " of the year"},
                                 {"negative", "no such word"}}) +
                 "\n";
      }
      write_file(data_ / name, lines);
    }
  }
  std::vector<std::string> words(std::initializer_list<std::string> more = {}, const char* task = "contrastive",
                                 const char* iters = "4") const {
    std::vector<std::string> all = {"train",    "--task", task,      "--model", model_,           "--data", data_,
                                    "--device", "cpu",    "--iters", iters,     "--adapter-path", out_};
    all.insert(all.end(), {"--steps-per-eval", "2"});
    all.insert(all.end(), more);
    return all;
  }
  void refused(int code, std::string_view part, std::initializer_list<std::string> more,
               const char* task = "contrastive") const {
    const RunResult run = wick(words(more, task));
    EXPECT_EQ(run.code, code) << run.err;
    EXPECT_NE(run.err.find(part), std::string::npos) << run.err;
  }

  TempDir dir_;
  fs::path model_ = dir_ / "model";
  fs::path data_ = dir_ / "data";
  fs::path out_ = dir_ / "out";
};

TEST_F(CliContrastive, TrainsAndEmbeds) {
  const RunResult run = wick(words({"--batch-size", "4", "--query-prompt", "query: ", "--symmetric"}));
  ASSERT_EQ(run.code, 0) << run.err;
  EXPECT_NE(run.err.find("train: 8 rows, 17 different texts"), std::string::npos) << run.err;
  EXPECT_NE(run.err.find("12 modules"), std::string::npos) << run.err;
  EXPECT_NE(run.err.find("step 2: validation loss"), std::string::npos) << run.err;
  EXPECT_NE(run.err.find("recall@1"), std::string::npos) << run.err;
  EXPECT_NE(run.out.find("validation recall@1 "), std::string::npos) << run.out;
  const Json config = read_json_file(out_ / "adapter_config.json");
  EXPECT_EQ(config["task_type"], "FEATURE_EXTRACTION");
  EXPECT_EQ(config["exclude_modules"], Json({"pooler.dense"}));
  const RunResult embedded =
      wick({"embed", "--model", model_, "--device", "cpu", "--adapter", out_}, {.input = "the fox\n"});
  EXPECT_EQ(embedded.code, 0) << embedded.err;
}

TEST_F(CliContrastive, GoesOnWhereItStopped) {
  const Json whole = parse_json(expect_success(words({"--json", "--target-modules", "query,value"})), "out");
  EXPECT_EQ(whole["steps"], 4);
  EXPECT_TRUE(whole["last_val_recall_at_1"].is_number());
  const std::string adapter = read_file(out_ / "adapter_model.safetensors");
  fs::remove_all(out_);
  expect_success(words({"--target-modules", "query,value"}, "contrastive", "3"));
  const Json rest = parse_json(expect_success(words({"--json", "--resume"})), "out");
  EXPECT_EQ(rest["last_val_loss"], whole["last_val_loss"]);
  EXPECT_EQ(read_file(out_ / "adapter_model.safetensors"), adapter);
}

TEST_F(CliContrastive, Refuses) {
  refused(2, "--batch-tokens has no meaning with --task contrastive", {"--batch-tokens", "100"});
  refused(2, "--mask-prompt has no meaning with --task contrastive", {"--mask-prompt"});
  refused(2, "--temperature", {"--temperature", "0"});
  refused(2, "--symmetric has no meaning with --task lm", {"--symmetric"}, "lm");
  write_file(data_ / "train.jsonl", "{\"query\": \"a\", \"positive\": \"b\"}\n{\"query\": \"a\"}\n");
  refused(3, "train.jsonl:2", {});
  write_file(data_ / "train.jsonl",
             "{\"query\": \"a\", \"positive\": \"b\"}\n{\"query\": \"a\", \"positive\": \"c\"}\n");
  fs::remove(data_ / "valid.jsonl");
  refused(2, "--batch-size is 1, expected 2 or more", {"--batch-size", "1"});
}

}  // namespace
}  // namespace wick::test
