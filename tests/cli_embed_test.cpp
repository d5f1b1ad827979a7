// `wick embed` on the tiny encoder of data/encoder.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/stat.h>

#include <cstring>
#include <sstream>

#include "cli_test_util.h"
#include "io/json.h"
#include "io/npy.h"
#include "wick/safetensors.h"

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

TEST_F(CliEmbed, WritesFilesForNumpyAndSafetensors) {
  const std::string plain = expect_success(words({"--format", "f32"}), {.input = lines()});
  ASSERT_EQ(plain.size(), 7U * 16 * 4);
  for (const char* batch_tokens : {"8192", "8"}) {  // the second in many parts
    for (const char* format : {"npy", "safetensors", "f32", "jsonl"}) {
      const RunResult run = wick(words({"--format", format, "--output", dir_ / "out", "--batch-tokens", batch_tokens}),
                                 {.input = lines()});
      ASSERT_EQ(run.code, 0) << run.err;
      EXPECT_EQ(run.out, "");
      EXPECT_EQ(list(dir_.path()), "model out");
      if (std::string_view(format) == "jsonl") {
        EXPECT_EQ(read_json_lines(dir_ / "out").size(), 7U);
        continue;
      }
      const bool bare = std::string_view(format) == "f32";
      Tensor rows;
      if (std::string_view(format) == "npy") rows = load_npy(dir_ / "out");
      if (std::string_view(format) == "safetensors") {
        rows = load_tensor(*SafetensorsFile::open(dir_ / "out").find("embeddings"));
      }
      const std::string all = read_file(dir_ / "out");
      if (!bare) {
        EXPECT_EQ(describe(rows), "f32 [7, 16]");
      }
      const std::string data = all.substr(bare ? 0 : 128);
      ASSERT_EQ(data.size(), plain.size());
      for (std::size_t i = 0; i < 7; ++i) {
        std::vector<float> row(16);
        std::memcpy(row.data(), data.data() + i * 64, 64);
        expect_near(row, vectors_[i]);
      }
    }
  }
}

TEST_F(CliEmbed, NothingInNothingOut) {
  EXPECT_EQ(expect_success(words()), "");
  expect_success(words({"--format", "npy", "--output", dir_ / "out"}));
  EXPECT_EQ(describe(load_npy(dir_ / "out")), "f32 [0, 16]");
}

TEST_F(CliEmbed, RefusesAHeaderThatItCannotKnow) {
  expect_failure(2, {"--format npy", "--output FILE"}, words({"--format", "npy"}), {.input = "hello\n"});
  expect_failure(2, {"--format safetensors", "--output FILE"}, words({"--format", "safetensors"}));
  expect_failure(3, {"is a directory"}, words({"--output", dir_.path()}));
}

TEST_F(CliEmbed, LeavesTheOldFileWhereALineIsBad) {
  write_file(dir_ / "out", "old");
  const std::vector<std::string> to_file = words({"--output", dir_ / "out"});
  expect_failure(3, {"standard input:2: byte 4 of the line is not UTF-8"}, to_file, {.input = "a\nabc\xff\n"});
  EXPECT_EQ(read_file(dir_ / "out"), "old");
  EXPECT_EQ(list(dir_.path()), "model out");
  const RunResult skipped = wick(words({"--skip-bad"}), {.input = "hello\nabc\xff\na b c d e"});
  EXPECT_EQ(skipped.code, 0);
  EXPECT_EQ(skipped.out, expect_success(words(), {.input = "hello\r\na b c d e\n"}));
  EXPECT_NE(skipped.err.find("2 texts, 16 columns; 1 lines skipped"), std::string::npos) << skipped.err;
}

// More than are read at a time, in several parts, on several threads.
TEST_F(CliEmbed, KeepsTheOrderOfManyLines) {
  std::string many;
  std::string right;
  for (int i = 0; i < 20000; ++i) {
    const std::string text = fmt::format("{}{}", i % 7 == 0 ? "hello " : "a b ", i % 10);
    many += text + "\n";
    if (i == 15000) many += "abc\xff\n";
  }
  for (int i = 0; i < 70; ++i) right += fmt::format("{}{}\n", i % 7 == 0 ? "hello " : "a b ", i % 10);
  const std::vector<std::string> to_file = words({"--format", "f32", "--skip-bad", "--output", dir_ / "out"});
  const RunResult run = wick(to_file, {.input = many});
  ASSERT_EQ(run.code, 0) << run.err;
  EXPECT_NE(run.err.find("standard input:15002: byte 4 of the line is not UTF-8"), std::string::npos) << run.err;
  const std::string found = read_file(dir_ / "out");
  const std::string some = expect_success(words({"--format", "f32"}), {.input = right});
  ASSERT_EQ(found.size(), 20000U * 16 * 4);
  for (std::size_t row = 0; row < 20000; ++row) {
    ASSERT_EQ(found.substr(row * 64, 64), some.substr(row % 70 * 64, 64)) << row;
  }
  expect_failure(3, {"standard input:15002: byte 4 of the line is not UTF-8"}, words({"--output", dir_ / "out"}),
                 {.input = many});
}

TEST_F(CliEmbed, EndsWhenItIsInterrupted) {
  // Standard input that never ends, so that the program waits or computes when the signal comes.
  ASSERT_EQ(::mkfifo((dir_ / "pipe").c_str(), 0600), 0);
  for (const bool busy : {false, true}) {
    SCOPED_TRACE(busy);
    const int both_ends = ::open((dir_ / "pipe").c_str(), O_RDWR | O_CLOEXEC);
    ASSERT_GE(both_ends, 0);
    if (busy) {
      std::string many;
      for (int i = 0; i < 1000; ++i) many += "one two three one two three one two three\n";
      ASSERT_GT(::write(both_ends, many.data(), std::min<std::size_t>(many.size(), 40000)), 0);
    }
    const std::string out = dir_ / "out";
    Program program(words({"--input", dir_ / "pipe", "--output", out, "--batch-tokens", "64"}));
    // The temporary file shows that the program is past loading its model.
    for (int i = 0; i < 2000 && list(dir_.path()).find(".wick-") == std::string::npos; ++i) ::usleep(10000);
    ::usleep(200000);
    program.interrupt();
    const RunResult run = program.wait();
    EXPECT_EQ(run.code, 130) << run.err;
    EXPECT_EQ(run.err, "error: interrupted\n");
    EXPECT_EQ(list(dir_.path()), "model pipe");
    ::close(both_ends);
  }
}

TEST_F(CliEmbed, EndsWhenItIsInterruptedWhileNobodyReads) {
  ASSERT_EQ(::mkfifo((dir_ / "pipe").c_str(), 0600), 0);
  const int both_ends = ::open((dir_ / "pipe").c_str(), O_RDWR | O_CLOEXEC);
  ASSERT_GE(both_ends, 0);
  std::string many;
  for (int i = 0; i < 20000; ++i) many += "hello\n";  // whose vectors are more than a pipe holds
  Program program(words({"--batch-tokens", "64"}), {.input = many, .output_path = dir_ / "pipe"});
  pollfd written{.fd = both_ends, .events = POLLIN, .revents = 0};
  ASSERT_EQ(::poll(&written, 1, 60000), 1);
  ::usleep(200000);
  program.interrupt();
  const RunResult run = program.wait();
  EXPECT_EQ(run.code, 130) << run.err;
  EXPECT_EQ(run.err, "error: interrupted\n");
  ::close(both_ends);
}

TEST_F(CliEmbed, UsesTheModelsPrompts) {
  const auto embed = [&](std::initializer_list<std::string> more, const std::string& text) {
    return expect_success(words(more), {.input = text + "\n"});
  };
  write_file(model_ / "config_sentence_transformers.json",
             R"({"prompts": {"query": "one ", "document": "two "}, "default_prompt_name": "document"})");
  EXPECT_EQ(embed({"--prompt-name", "query"}, "three"), embed({"--prompt", ""}, "one three"));
  EXPECT_EQ(embed({}, "three"), embed({"--prompt", ""}, "two three"));
  EXPECT_EQ(embed({"--prompt", "one "}, "three"), embed({"--prompt-name", "query"}, "three"));
  EXPECT_EQ(embed({"--prompt=", "--skip-bad"}, "two three"), embed({}, "three"));  // the next word is no prompt
  expect_failure(2, {"--prompt-name", "\"passage\"", "\"document\", \"query\""}, words({"--prompt-name", "passage"}));
  EXPECT_EQ(wick(words({"--prompt-name", "query", "--prompt", "x"})).code, 2);
}

TEST_F(CliEmbed, SaysHowFastItWas) {
  const RunResult run = wick(words(), {.input = lines()});
  EXPECT_NE(run.err.find(" texts/s, "), std::string::npos) << run.err;
  EXPECT_NE(run.err.find("(tokenizing alone "), std::string::npos) << run.err;
  EXPECT_NE(run.err.find(", computing alone "), std::string::npos) << run.err;
}

}  // namespace
}  // namespace wick::test
