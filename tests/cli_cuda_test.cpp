// The program on a GPU, as its user sees it. What each kernel computes is tested elsewhere.
#include <gtest/gtest.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "cli_test_util.h"
#include "op_matrix.h"

namespace wick::test {
namespace {

using Words = std::vector<std::string>;

class CliCuda : public ::testing::Test {
 protected:
  void SetUp() override {
    if (wick::testing::test_device().type != DeviceType::cuda) GTEST_SKIP() << "WICK_TEST_DEVICE names no GPU";
  }
  // The GPUs that this program sees, the started one sees too.
  static RunOptions on_gpu() {
    const char* const visible = std::getenv("CUDA_VISIBLE_DEVICES");
    return {.environment = {{"CUDA_VISIBLE_DEVICES", visible != nullptr ? visible : "0"}}};
  }
  RunResult train(const std::string& name, const Words& more = {}) const {
    Words words = {"--batch-size", "2", "--max-seq-length", "64"};
    words.insert(words.end(), more.begin(), more.end());
    return train(golden("tales") / "rows.jsonl", name, words, on_gpu());
  }
  RunResult train(const fs::path& data, const std::string& name, const Words& more, const RunOptions& options) const {
    Words words = {"train",        "--model", tales(), "--data",          data,    "--adapter-path",
                   folder_ / name, "--iters", "12",    "--learning-rate", "0.002", "--json"};
    words.insert(words.end(), more.begin(), more.end());
    return wick(words, options);
  }
  Json losses(const std::string& name) const {
    Json result = Json::array();
    const Json rows = read_json_lines(folder_ / name / "metrics.jsonl");
    for (const Json& row : rows) {
      if (row.contains("loss")) result.push_back(row["loss"]);  // others are of the validation
    }
    return result;
  }

  static void expect_near(const Json& found, const Json& wanted) {
    ASSERT_EQ(found.size(), 12U);
    ASSERT_EQ(wanted.size(), 12U);
    for (std::size_t i = 0; i < 12; ++i) {
      EXPECT_NEAR(found[i].get<double>() / wanted[i].get<double>(), 1, 1e-3) << "step " << i + 1;
    }
  }

  TempDir folder_;
};

TEST_F(CliCuda, DevicesNamesAGpuThatCanBeUsed) {
  const Json json = expect_json({"devices", "--json"}, on_gpu());
  ASSERT_GE(json["devices"].size(), 2U);
  EXPECT_EQ(json["devices"][1]["type"], "cuda");
  EXPECT_EQ(json["devices"][1]["missing"], "");
  EXPECT_EQ(json["cuda"]["missing"], "");
}

TEST_F(CliCuda, TrainsInTheDTypeOfTheWeightsToTheSameBytesEachTime) {
  const RunResult first = train("first");
  ASSERT_EQ(first.code, 0) << first.err;
  EXPECT_NE(first.err.find("computing in bf16 on cuda:0"), std::string::npos) << first.err;
  const Json rows = read_json_lines(folder_ / "first" / "metrics.jsonl");
  ASSERT_EQ(rows.size(), 12U);
  EXPECT_LT(rows[11]["loss"].get<double>(), rows[0]["loss"].get<double>());
  const RunResult second = train("second");
  ASSERT_EQ(second.code, 0) << second.err;
  EXPECT_EQ(read_file(folder_ / "first" / "adapter_model.safetensors"),
            read_file(folder_ / "second" / "adapter_model.safetensors"));
}

TEST_F(CliCuda, TrainsInF32AsTheCpuDoes) {
  const RunResult gpu = train("gpu", {"--dtype", "f32"});
  ASSERT_EQ(gpu.code, 0) << gpu.err;
  const RunResult cpu = train("cpu", {"--dtype", "f32", "--device", "cpu"});
  ASSERT_EQ(cpu.code, 0) << cpu.err;
  expect_near(losses("gpu"), losses("cpu"));
}

// The ways to make a product are timed when it first comes, and what was chosen is kept for later runs.
TEST_F(CliCuda, TunesProductsOnceAndTakesTheSameLater) {
  RunOptions tuning = on_gpu();
  const fs::path file = folder_ / "plans.json";
  tuning.environment.emplace_back("WICK_GEMM_TUNING", file);
  const fs::path alice = fs::path(WICK_MODELS).parent_path() / "data" / "alice";
  const Words large = {"--batch-size", "8", "--max-seq-length", "256", "--dtype", "f32"};
  const auto run = [&](const std::string& name, const RunOptions& options) {
    const RunResult result = train(alice, name, large, options);
    EXPECT_EQ(result.code, 0) << result.err;
  };
  run("first", tuning);
  const std::string plans = read_file(file);
  EXPECT_GT(parse_json(plans, "plans").at("plans").size(), 4U) << plans;
  run("second", tuning);
  EXPECT_EQ(read_file(file), plans);
  EXPECT_EQ(read_file(folder_ / "first" / "adapter_model.safetensors"),
            read_file(folder_ / "second" / "adapter_model.safetensors"));

  run("untuned", on_gpu());
  expect_near(losses("first"), losses("untuned"));
}

// A table of what ran and a timeline of it.
TEST_F(CliCuda, ProfilesTrainingAndGenerating) {
  const auto expect_profile = [](const RunResult& result, const fs::path& file, const char* kernel) {
    ASSERT_EQ(result.code, 0) << result.err;
    for (const char* word : {"calls", "total ms", "mean us", "share", "GB/s", "TFLOP/s", "of ceiling", "all kernels"})
      EXPECT_NE(result.err.find(word), std::string::npos) << word << "\n" << result.err;
    std::size_t found = 0;
    const Json trace = read_json_file(file);
    for (const Json& event : trace.at("traceEvents")) {
      if (event.at("ph") != "X") continue;
      EXPECT_GE(event.at("dur").get<double>(), 0);
      found += event.at("name").get<std::string>().find(kernel) != std::string::npos ? 1 : 0;
    }
    EXPECT_GT(found, 0U) << kernel;
  };
  const fs::path trained = folder_ / "train.json";
  expect_profile(train("profiled", {"--profile", trained, "--profile-steps", "2"}), trained, "attention");
  const fs::path generated = folder_ / "generate.json";
  expect_profile(
      wick({"generate", "--model", tales(), "--prompt", "Once", "--max-tokens", "8", "--json", "--profile", generated},
           on_gpu()),
      generated, "gemv");
}

TEST_F(CliCuda, GeneratesAndScoresAsTheCpuDoes) {
  const Words generate = {"generate",     "--model", tales(),         "--prompt", "Once upon a time",
                          "--max-tokens", "24",      "--temperature", "0",        "--dtype",
                          "f32",          "--json"};
  const Json gpu = expect_json(generate, on_gpu());
  EXPECT_EQ(gpu["ids"], expect_json(generate)["ids"]);

  const Words score = {"score",   "--model", tales(), "--text", "Once upon a time there was a king.",
                       "--dtype", "f32",     "--json"};
  const Json scored = expect_json(score, on_gpu());
  const Json wanted = expect_json(score);
  EXPECT_NEAR(scored["perplexity"].get<double>() / wanted["perplexity"].get<double>(), 1, 1e-4);
}

TEST_F(CliCuda, AGpuThatIsNotThereIsRefused) {
  expect_failure(3, {"cuda:99"}, {"generate", "--model", tales(), "--prompt", "a", "--device", "cuda:99"}, on_gpu());
}

}  // namespace
}  // namespace wick::test
