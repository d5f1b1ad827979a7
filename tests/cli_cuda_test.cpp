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
    Words words = {"train",
                   "--model",
                   tales(),
                   "--data",
                   golden("tales") / "rows.jsonl",
                   "--adapter-path",
                   folder_ / name,
                   "--iters",
                   "12",
                   "--batch-size",
                   "2",
                   "--learning-rate",
                   "0.002",
                   "--max-seq-length",
                   "64",
                   "--json"};
    words.insert(words.end(), more.begin(), more.end());
    return wick(words, on_gpu());
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
  const Json on_gpu_rows = read_json_lines(folder_ / "gpu" / "metrics.jsonl");
  const Json on_cpu_rows = read_json_lines(folder_ / "cpu" / "metrics.jsonl");
  ASSERT_EQ(on_gpu_rows.size(), on_cpu_rows.size());
  for (std::size_t i = 0; i < on_cpu_rows.size(); ++i) {
    const auto wanted = on_cpu_rows[i]["loss"].get<double>();
    EXPECT_NEAR(on_gpu_rows[i]["loss"].get<double>() / wanted, 1, 1e-3) << "step " << i + 1;
  }
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
