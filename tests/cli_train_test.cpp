// Training as its user sees it: the reference losses, resuming bit for bit, stopping and diverging.
#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <string>
#include <thread>
#include <vector>

#include "cli_test_util.h"
#include "wick/safetensors.h"

namespace wick::test {
namespace {

using Words = std::vector<std::string>;

Words operator+(Words a, const Words& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

Words train(std::string_view model, const fs::path& out) {
  return {"train", "--model", model_of(model), "--data", golden(model) / "rows.jsonl", "--adapter-path", out};
}

std::string adapter_bytes(const fs::path& folder) { return read_file(folder / "adapter_model.safetensors"); }

// What must be the same in every repetition of a run: all of metrics.jsonl but speed and memory.
Json course_of(const fs::path& folder) {
  Json rows = read_json_lines(folder / "metrics.jsonl");
  for (Json& row : rows) {
    row.erase("tokens_per_second");
    row.erase("peak_memory_bytes");
  }
  return rows;
}

struct Reference {
  const char* model;
  const char* run;
  const char* fused;
};
void PrintTo(const Reference& r, std::ostream* out) { *out << r.model << " " << r.run << " " << r.fused; }

class CliTraining : public ::testing::TestWithParam<Reference> {};

TEST_P(CliTraining, FollowsTheReferenceLosses) {
  const auto& [model, run, fused] = GetParam();
  const TempDir folder;
  const fs::path out = folder / "out";
  const fs::path start = golden(model) / run / "adapter-start";
  const RunOptions options = {.environment = {{"WICK_FUSED", fused}}};
  const Json result = expect_json(train(model, out) + Words{"--batch-size",
                                                            "4",
                                                            "--no-shuffle",
                                                            "--iters",
                                                            "10",
                                                            "--learning-rate",
                                                            "0.002",
                                                            "--weight-decay",
                                                            "0.01",
                                                            "--lr-schedule",
                                                            "constant",
                                                            "--max-grad-norm",
                                                            "0",
                                                            "--resume-adapter",
                                                            start,
                                                            "--val-batches",
                                                            "0",
                                                            "--steps-per-report",
                                                            "1",
                                                            "--dtype",
                                                            "f32",
                                                            "--json"},
                                  options);
  const Json steps = read_json_file(golden(model) / run / "steps.json");
  const Json rows = read_json_lines(out / "metrics.jsonl");
  ASSERT_EQ(rows.size(), 10U);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    EXPECT_EQ(rows[i]["step"], i + 1);
    EXPECT_NEAR(rows[i]["loss"].get<double>() / steps["losses"][i].get<double>(), 1, 1e-4) << "step " << i + 1;
    EXPECT_NEAR(rows[i]["grad_norm"].get<double>() / steps["grad_norms"][i].get<double>(), 1, 1e-3) << "step " << i + 1;
    EXPECT_EQ(rows[i]["lr"], 0.002);
    EXPECT_GT(rows[i]["tokens_per_second"].get<double>(), 0);
    EXPECT_GT(rows[i]["peak_memory_bytes"].get<double>(), 0);
  }
  EXPECT_EQ(result["steps"], 10);
  EXPECT_EQ(result["final_loss"], rows[9]["loss"]);
  EXPECT_EQ(result["adapter_path"], out.string());

  // PEFT's format: the keys, shapes and dtypes of the adapter it began with, and a configuration that says the same.
  const Json before = read_json_file(start / "adapter_config.json");
  const Json after = read_json_file(out / "adapter_config.json");
  for (const char* key : {"peft_type", "r", "lora_alpha", "use_rslora", "lora_dropout", "bias", "task_type"}) {
    EXPECT_EQ(after[key], before[key]) << key;
  }
  const SafetensorsFile expected = SafetensorsFile::open(start / "adapter_model.safetensors");
  const SafetensorsFile found = SafetensorsFile::open(out / "adapter_model.safetensors");
  EXPECT_EQ(found.entries().size(), expected.entries().size());
  for (const SafetensorsEntry& entry : expected.entries()) {
    const SafetensorsEntry* same = found.find(entry.name);
    ASSERT_NE(same, nullptr) << entry.name;
    EXPECT_EQ(same->shape, entry.shape) << entry.name;
    EXPECT_EQ(same->dtype, "F32") << entry.name;
  }
  const std::string curve = read_file(out / "loss.svg");
  EXPECT_TRUE(curve.find("<svg") != std::string::npos);
}

INSTANTIATE_TEST_SUITE_P(Runs, CliTraining,
                         ::testing::Values(Reference{"tales", "qv-r8", "1"}, Reference{"llama-gqa", "qv-r8", "1"},
                                           Reference{"llama-gqa", "all-r4-rs", "0"},
                                           Reference{"qwen3-qknorm", "all-r4-rs", "1"},
                                           Reference{"qwen2-untied", "qv-r8", "0"}),
                         [](const auto& info) {
                           std::string name =
                               std::string(info.param.model) + "_" + info.param.run + "_" + info.param.fused;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

struct Course {
  const char* name;
  Words options;
};
void PrintTo(const Course& course, std::ostream* out) { *out << course.name; }

class CliResume : public ::testing::TestWithParam<Course> {
 protected:
  TempDir folder_;
  Words run(const char* out, const char* iters) const {
    return train("llama-gqa", folder_ / out) + GetParam().options + Words{"--iters", iters};
  }
};

TEST_P(CliResume, TenAndTenStepsAreTwenty) {
  expect_success(run("twenty", "20"));
  expect_success(run("ten", "10"), {.environment = {{"OMP_NUM_THREADS", "1"}}});  // nor do threads matter
  EXPECT_NE(adapter_bytes(folder_ / "ten"), adapter_bytes(folder_ / "twenty"));
  expect_success(run("ten", "20") + Words{"--resume"});
  EXPECT_EQ(course_of(folder_ / "ten").size(), 20U);
  EXPECT_EQ(course_of(folder_ / "ten"), course_of(folder_ / "twenty"));
  EXPECT_EQ(adapter_bytes(folder_ / "ten"), adapter_bytes(folder_ / "twenty"));
  EXPECT_EQ(read_file(folder_ / "ten/adapter_config.json"), read_file(folder_ / "twenty/adapter_config.json"));
  EXPECT_EQ(read_file(folder_ / "ten/checkpoint.safetensors"), read_file(folder_ / "twenty/checkpoint.safetensors"));
}

INSTANTIATE_TEST_SUITE_P(
    Courses, CliResume,
    ::testing::Values(Course{"in_order", {"--batch-size", "2", "--no-shuffle"}},
                      Course{"shuffled", {"--batch-size", "2", "--seed", "3"}},
                      Course{"padded", {"--batch-size", "3", "--no-pack"}},
                      Course{"token_budget", {"--batch-tokens", "64"}},
                      Course{"accumulated",
                             {"--batch-size", "1", "--grad-accumulation-steps", "2", "--max-grad-norm", "0.5"}},
                      Course{"dropout", {"--batch-size", "2", "--dropout", "0.1", "--weight-decay", "0.1"}},
                      Course{"bf16", {"--batch-size", "2", "--dtype", "bf16", "--dropout", "0.1"}},
                      Course{"bordered", {"--batch-size", "2", "--lora-layout", "bordered", "--dropout", "0.1"}}),
    [](const auto& info) { return std::string(info.param.name); });

class CliTrain : public ::testing::Test {
 protected:
  TempDir folder_;
  Words run(const char* out, const char* iters, const Words& more = {}) const {
    return train("llama-gqa", folder_ / out) + Words{"--batch-size", "2", "--iters", iters} + more;
  }
};

// The configuration of a run that continues is that of its adapter, whatever the defaults of the options are.
TEST_F(CliTrain, ResumesARunThatBeganFromAnAdapter) {
  const Words from = {"--resume-adapter", golden("llama-gqa") / "all-r4-rs" / "adapter-start"};
  expect_success(run("eight", "8", from));
  expect_success(run("four", "4", from));
  expect_success(run("four", "8", {"--resume"}));
  EXPECT_EQ(course_of(folder_ / "four"), course_of(folder_ / "eight"));
  EXPECT_EQ(adapter_bytes(folder_ / "four"), adapter_bytes(folder_ / "eight"));
  // What is complete stays as it is.
  const Json result = expect_json(run("four", "8", {"--resume", "--json"}));
  EXPECT_EQ(result["steps"], 8);
  EXPECT_EQ(result["final_loss"], read_json_lines(folder_ / "eight/metrics.jsonl")[7]["loss"]);
  EXPECT_EQ(adapter_bytes(folder_ / "four"), adapter_bytes(folder_ / "eight"));
}

TEST_F(CliTrain, ResumesWithValidationAndSchedule) {
  fs::create_directory(folder_ / "data");
  for (const char* name : {"train.jsonl", "valid.jsonl"}) {
    fs::copy_file(golden("llama-gqa") / "rows.jsonl", folder_ / "data" / name);
  }
  const auto words = [&](const char* out) {
    return Words{"train",
                 "--model",
                 model_of("llama-gqa"),
                 "--data",
                 folder_ / "data",
                 "--adapter-path",
                 folder_ / out,
                 "--batch-size",
                 "2",
                 "--iters",
                 "40",
                 "--lr-schedule",
                 "cosine",
                 "--warmup-steps",
                 "3",
                 "--steps-per-eval",
                 "4",
                 "--save-every",
                 "3",
                 "--learning-rate",
                 "0.001"};
  };
  const RunResult whole = wick(words("whole"));
  EXPECT_EQ(whole.code, 0) << whole.err;
  EXPECT_NE(whole.out.find("validation loss"), std::string::npos);
  const Json rows = read_json_lines(folder_ / "whole/metrics.jsonl");
  ASSERT_EQ(rows.size(), 41U);
  EXPECT_TRUE(rows[0].contains("val_loss"));
  EXPECT_LT(rows[40]["val_loss"].get<double>(), rows[0]["val_loss"].get<double>());
  EXPECT_LT(rows[1]["lr"].get<double>(), rows[3]["lr"].get<double>());
  EXPECT_LT(rows[40]["lr"].get<double>(), rows[3]["lr"].get<double>());
  EXPECT_TRUE(fs::exists(folder_ / "whole/best/adapter_model.safetensors"));

  {
    Program cut(words("cut"));
    while (cut.running() && read_file(folder_ / "cut/metrics.jsonl").find("\"step\": 6,") == std::string::npos) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }  // killed: what the last checkpoint does not have is done again
  expect_success(words("cut") + Words{"--resume"});
  EXPECT_EQ(course_of(folder_ / "cut"), course_of(folder_ / "whole"));
  EXPECT_EQ(adapter_bytes(folder_ / "cut"), adapter_bytes(folder_ / "whole"));
  EXPECT_EQ(adapter_bytes(folder_ / "cut/best"), adapter_bytes(folder_ / "whole/best"));
}

TEST_F(CliTrain, DryRunPrintsThePlanAndTrainsNothing) {
  const Json kept = expect_json(run("plan", "5", {"--dry-run", "--json"}));
  EXPECT_GT(kept["total"].get<double>(), kept["weights"].get<double>());
  EXPECT_FALSE(fs::exists(folder_ / "plan/metrics.jsonl"));
  const Json again = expect_json(run("plan", "5", {"--dry-run", "--json", "--grad-checkpoint"}));
  EXPECT_LT(again["total"].get<double>(), kept["total"].get<double>());
  const double limit = kept["total"].get<double>() - 8192;
  const Json fitted =
      expect_json(run("plan", "5", {"--dry-run", "--json", "--max-memory", std::to_string(limit / (1 << 30))}));
  EXPECT_LE(fitted["total"].get<double>(), limit + 1024);  // six digits of a GiB
  EXPECT_EQ(fitted["gate_up_again"], 1);
  const RunResult none = wick(run("plan", "5", {"--dry-run", "--max-memory", "0.001"}));
  EXPECT_EQ(none.code, 4) << none.err;
}

TEST_F(CliTrain, GradCheckpointGivesTheSameBytes) {
  expect_success(run("kept", "5", {"--dropout", "0.1"}));
  for (const char* what : {"mlp", "all", "1"}) {
    expect_success(run(what, "5", {"--dropout", "0.1", "--grad-checkpoint", what}));
    EXPECT_EQ(adapter_bytes(folder_ / what), adapter_bytes(folder_ / "kept")) << what;
  }
  const RunResult refused = wick(run("refused", "5", {"--grad-checkpoint", "some"}));
  EXPECT_EQ(refused.code, 2);
  EXPECT_NE(refused.err.find("--grad-checkpoint is some, expected none, mlp, all"), std::string::npos) << refused.err;
}

TEST_F(CliTrain, SameSeedSameBytes) {
  const Words options = {"--dropout", "0.1"};
  expect_success(run("a", "5", options + Words{"--seed", "11"}));
  expect_success(run("b", "5", options + Words{"--seed", "11"}), {.environment = {{"OMP_NUM_THREADS", "3"}}});
  expect_success(run("c", "5", options + Words{"--seed", "12"}));
  EXPECT_EQ(course_of(folder_ / "a"), course_of(folder_ / "b"));
  EXPECT_EQ(adapter_bytes(folder_ / "a"), adapter_bytes(folder_ / "b"));
  EXPECT_NE(course_of(folder_ / "a"), course_of(folder_ / "c"));
  EXPECT_NE(adapter_bytes(folder_ / "a"), adapter_bytes(folder_ / "c"));
}

TEST_F(CliTrain, AnInterruptedRunContinues) {
  const Words options = {"--dropout", "0.1", "--save-every", "0"};
  std::string interrupted;
  {
    Program program(run("stopped", "100000000", options));
    while (program.running() &&
           read_file(folder_ / "stopped/metrics.jsonl").find("\"step\": 5,") == std::string::npos) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    ASSERT_TRUE(program.running()) << program.wait().err;
    program.interrupt();
    const RunResult result = program.wait();
    EXPECT_EQ(result.code, 130) << result.err;
    EXPECT_EQ(result.out, "");
    interrupted = result.err;
  }
  const std::string before = "stopped after step ";
  const std::size_t at = interrupted.find(before);
  ASSERT_NE(at, std::string::npos) << interrupted;
  const int step = std::stoi(interrupted.substr(at + before.size()));
  EXPECT_GE(step, 5);
  EXPECT_EQ(course_of(folder_ / "stopped").size(), static_cast<std::size_t>(step));
  EXPECT_TRUE(fs::exists(folder_ / "stopped/checkpoint.safetensors"));
  EXPECT_TRUE(fs::exists(folder_ / "stopped/adapter_config.json"));

  const std::string iters = std::to_string(step + 5);
  expect_success(run("stopped", iters.c_str(), options + Words{"--resume"}));
  expect_success(run("whole", iters.c_str(), options));
  EXPECT_EQ(course_of(folder_ / "stopped"), course_of(folder_ / "whole"));
  EXPECT_EQ(adapter_bytes(folder_ / "stopped"), adapter_bytes(folder_ / "whole"));
}

TEST_F(CliTrain, ResumeRefusesWhatWouldChangeTheRun) {
  expect_success(run("run", "2"));
  const std::string before = adapter_bytes(folder_ / "run");
  const auto refused = [&](const char* option, const Words& more) {
    SCOPED_TRACE(option);
    const RunResult result = wick(run("run", "4", Words{"--resume"} + more));
    EXPECT_EQ(result.code, 2) << result.err;
    const std::size_t line = result.err.find("error: ");
    ASSERT_NE(line, std::string::npos) << result.err;
    EXPECT_NE(result.err.find(option, line), std::string::npos) << result.err;
  };
  refused("--learning-rate", {"--learning-rate", "0.5"});
  refused("--seed", {"--seed", "9"});
  refused("--no-shuffle", {"--no-shuffle"});
  refused("--no-pack", {"--no-pack"});
  refused("--grad-accumulation-steps", {"--grad-accumulation-steps", "2"});
  refused("--weight-decay", {"--weight-decay", "0.5"});
  refused("--max-grad-norm", {"--max-grad-norm", "1"});
  refused("--lr-schedule", {"--lr-schedule", "linear"});
  refused("--dtype", {"--dtype", "bf16"});
  refused("--rank", {"--rank", "4"});
  refused("--alpha", {"--alpha", "8"});
  refused("--rslora", {"--rslora"});
  refused("--dropout", {"--dropout", "0.1"});
  refused("--target-modules", {"--target-modules", "all-linear"});
  refused("data", {"--max-seq-length", "8"});
  EXPECT_EQ(adapter_bytes(folder_ / "run"), before);

  const RunResult nothing = wick(run("empty", "4", {"--resume"}));
  EXPECT_EQ(nothing.code, 3) << nothing.err;
  EXPECT_NE(nothing.err.find("checkpoint.safetensors"), std::string::npos) << nothing.err;
  fs::resize_file(folder_ / "run/checkpoint.safetensors", 100);
  const RunResult broken = wick(run("run", "4", {"--resume"}));
  EXPECT_EQ(broken.code, 3) << broken.err;
  EXPECT_NE(broken.err.find("checkpoint.safetensors"), std::string::npos) << broken.err;
}

TEST_F(CliTrain, ADivergedRunNamesTheStep) {
  const RunResult result = wick(run("out", "20", {"--learning-rate", "1e30"}));
  EXPECT_EQ(result.code, 5) << result.err;
  EXPECT_EQ(result.out, "");
  EXPECT_NE(result.err.find("error: step 2: loss"), std::string::npos) << result.err;
}

TEST_F(CliTrain, AllOptionsAtOnce) {
  const Words options = {"--rank",
                         "4",
                         "--alpha",
                         "12",
                         "--dropout",
                         "0.05",
                         "--target-modules",
                         "q_proj,down_proj",
                         "--rslora",
                         "--seed",
                         "5",
                         "--lr-schedule",
                         "linear",
                         "--warmup-steps",
                         "2",
                         "--max-grad-norm",
                         "1",
                         "--weight-decay",
                         "0.1",
                         "--beta1",
                         "0.8",
                         "--beta2",
                         "0.99",
                         "--eps",
                         "1e-7",
                         "--label-smoothing",
                         "0.1",
                         "--grad-accumulation-steps",
                         "2",
                         "--max-seq-length",
                         "32",
                         "--val-batches",
                         "0",
                         "--steps-per-report",
                         "2",
                         "--save-every",
                         "3",
                         "--no-pack",
                         "--mask-prompt",
                         "--dtype",
                         "bf16"};
  expect_success(run("out", "4", options));
  const Json config = read_json_file(folder_ / "out/adapter_config.json");
  EXPECT_EQ(config["r"], 4);
  EXPECT_EQ(config["lora_alpha"], 12);
  EXPECT_EQ(config["lora_dropout"], 0.05);
  EXPECT_EQ(config["use_rslora"], true);
  EXPECT_EQ(expect_json({"info", folder_ / "out", "--json"})["weights"]["tensors"], 12);
  // What was trained can be used.
  const Json score = expect_json(
      {"score", "--model", model_of("llama-gqa"), "--adapter-path", folder_ / "out", "--ids", "[5, 6, 7]", "--json"});
  EXPECT_EQ(score["tokens"], 2);
}

TEST_F(CliTrain, TextRowsAreTokenized) {
  write_file(folder_ / "text.jsonl", "{\"text\": \"Once upon a time there was a king.\"}\n");
  write_file(folder_ / "prompt.jsonl", "{\"prompt\": \"Once upon\", \"completion\": \" a time there was a king.\"}\n");
  const auto tokens = [&](const char* data, const Words& more) {
    expect_success(Words{"train", "--model", tales(), "--data", folder_ / data, "--adapter-path", folder_ / "out",
                         "--iters", "1", "--batch-size", "1"} +
                   more);
    return read_json_lines(folder_ / "out/metrics.jsonl")[0]["trained_tokens"].get<int>();
  };
  const int all = tokens("text.jsonl", {});
  EXPECT_EQ(tokens("prompt.jsonl", {}), all);
  const int masked = tokens("prompt.jsonl", {"--mask-prompt"});
  EXPECT_GT(masked, 0);
  EXPECT_LT(masked, all);
}

// In a pipe: results alone on standard output, plain lines on standard error.
TEST_F(CliTrain, PlainLinesInAPipe) {
  for (const char* no_color : {"", "1"}) {
    const RunResult result =
        wick(run("out", "6", {"--steps-per-report", "2", "--json"}), {.environment = {{"NO_COLOR", no_color}}});
    EXPECT_EQ(result.code, 0);
    EXPECT_EQ(parse_json(result.out, "stdout")["steps"], 6);
    EXPECT_EQ(result.err.find('\r'), std::string::npos) << result.err;
    EXPECT_EQ(result.err.find('\x1b'), std::string::npos) << result.err;
    for (const char* step : {"step 2/6", "step 4/6", "step 6/6"})
      EXPECT_NE(result.err.find(step), std::string::npos) << result.err;
    EXPECT_EQ(result.err.find("step 3/6"), std::string::npos) << result.err;
  }
}

TEST(CliTrainingProfile, OfStepsAfterTheWarmUp) {
  const TempDir folder;
  const auto products = [&](const char* steps, const char* iters, bool written) {
    const fs::path file = folder / "trace.json";
    fs::remove(file);
    const RunResult result = wick(train("llama-gqa", folder / "out") +
                                  Words{"--iters", iters, "--no-shuffle", "--batch-size", "4", "--json", "--device",
                                        "cpu", "--profile", file, "--profile-steps", steps});
    EXPECT_EQ(result.code, 0) << result.err;
    EXPECT_EQ(parse_json(result.out, "standard output").at("steps"), std::stoi(iters));
    EXPECT_EQ(fs::exists(file), written) << result.err;
    EXPECT_EQ(result.err.find("all kernels") != std::string::npos, written) << result.err;
    if (!written) return std::size_t{0};
    const Json trace = read_json_file(file);
    std::size_t count = 0;
    for (const Json& event : trace.at("traceEvents")) {
      count += event.at("name").get<std::string>().starts_with("gemm") ? 1 : 0;
    }
    return count;
  };
  const std::size_t one = products("1", "4", true);
  EXPECT_GT(one, 10U);
  EXPECT_EQ(products("2", "4", true), 2 * one);
  EXPECT_EQ(products("2", "3", true), one);  // the run ends first
  products("3", "2", false);
  expect_failure(2, {"--profile-steps", "--profile"},
                 train("llama-gqa", folder / "out") + Words{"--profile-steps", "2"});
}

}  // namespace
}  // namespace wick::test
