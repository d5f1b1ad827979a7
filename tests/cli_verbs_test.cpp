// What each verb prints, against the reference answers, as its user sees it.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "cli_test_util.h"
#include "wick/safetensors.h"
#include "wick/version.h"

namespace wick::test {
namespace {

const std::vector<std::string> kModels = {"tales", "llama-gqa", "qwen3-qknorm", "qwen2-untied"};

// The token sequences of a safetensors file with ids.0, ids.1, ... as JSON.
Json sequences_of(const fs::path& path) {
  const SafetensorsFile file = SafetensorsFile::open(path);
  Json lists = Json::array();
  while (const SafetensorsEntry* entry = file.find("ids." + std::to_string(lists.size()))) {
    lists.push_back(load_tensor(*entry).to_vector<std::int64_t>());
  }
  return lists;
}

std::vector<std::vector<float>> logits_of(const fs::path& path) {
  const SafetensorsFile file = SafetensorsFile::open(path);
  std::vector<std::vector<float>> out;
  while (const SafetensorsEntry* entry = file.find("logits." + std::to_string(out.size()))) {
    EXPECT_EQ(entry->dtype, "F32");
    EXPECT_EQ(entry->shape.size(), 2U);
    out.push_back(load_tensor(*entry).to_vector<float>());
  }
  return out;
}

double largest_difference(const std::vector<std::vector<float>>& a, const std::vector<std::vector<float>>& b) {
  EXPECT_EQ(a.size(), b.size());
  double largest = a.empty() ? std::numeric_limits<double>::infinity() : 0;
  for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    EXPECT_EQ(a[i].size(), b[i].size());
    for (std::size_t j = 0; j < std::min(a[i].size(), b[i].size()); ++j) {
      if (!std::isfinite(a[i][j])) return std::numeric_limits<double>::infinity();
      largest = std::max(largest, std::abs(static_cast<double>(a[i][j]) - static_cast<double>(b[i][j])));
    }
  }
  return largest;
}

double log_probability(const std::vector<float>& logits, std::size_t row, std::size_t vocab, std::size_t target) {
  const auto at = [&](std::size_t i) { return static_cast<double>(logits[row * vocab + i]); };
  double peak = at(0);
  for (std::size_t i = 1; i < vocab; ++i) peak = std::max(peak, at(i));
  double sum = 0;
  for (std::size_t i = 0; i < vocab; ++i) sum += std::exp(at(i) - peak);
  return at(target) - peak - std::log(sum);
}

TEST(CliHelp, EveryVerbNamesItsOptions) {
  const std::vector<std::pair<std::string, std::vector<std::string>>> verbs = {
      {"train", {"--model",        "--data",        "--adapter-path",     "--resume-adapter",
                 "--resume",       "--iters",       "--batch-size",       "--learning-rate",
                 "--weight-decay", "--lr-schedule", "--max-grad-norm",    "--dtype",
                 "--no-shuffle",   "--val-batches", "--steps-per-report", "--rank",
                 "--alpha",        "--dropout",     "--target-modules",   "--rslora",
                 "--seed",         "--no-pack",     "--mask-prompt",      "--grad-accumulation-steps",
                 "--patience",     "--save-every",  "--max-seq-length",   "--json"}},
      {"generate",
       {"--model", "--adapter-path", "--prompt", "--ids", "--max-tokens", "--temperature", "--top-k", "--top-p",
        "--repetition-penalty", "--ignore-eos", "--seed", "--stop", "--dtype", "--chat", "--system", "--json"}},
      {"score", {"--model", "--adapter-path", "--ids", "--ids-file", "--text", "--dtype", "--logits", "--json"}},
      {"fuse", {"--model", "--adapter-path", "--output", "--verify", "--json"}},
      {"embed", {"--model", "--input", "--format", "--prompt", "--batch-tokens", "--truncate-dim", "--skip-bad"}},
      {"tokenize", {"--model", "--text", "--decode", "--json"}},
      {"info", {"path", "--tensors", "--json"}},
      {"devices", {"--json"}},
  };
  const std::string all = expect_success({"--help"});
  for (const auto& [verb, options] : verbs) {
    SCOPED_TRACE(verb);
    EXPECT_NE(all.find(verb), std::string::npos);
    const RunResult help = wick({verb, "--help"});
    EXPECT_EQ(help.code, 0);
    EXPECT_EQ(help.err, "");
    EXPECT_NE(help.out.find("wick " + verb), std::string::npos) << help.out;
    for (const std::string& option : options) EXPECT_NE(help.out.find(option), std::string::npos) << option;
  }
  const std::string train = expect_success({"train", "--help"});
  EXPECT_NE(train.find("--grad-checkpoint WHAT  "), std::string::npos)
      << train;  // the value of the bare option is no default
  EXPECT_NE(train.find("Default: auto"), std::string::npos) << train;
  EXPECT_EQ(expect_success({"--version"}), std::string("wick ") + kVersion + "\n");
}

TEST(CliUsage, MistakesAreNamedInOneLine) {
  const std::string model = model_of("llama-gqa");
  const std::string rows = golden("llama-gqa") / "rows.jsonl";
  const TempDir folder;
  const std::string out = folder / "out";
  const auto train = [&](std::vector<std::string> more) {
    std::vector<std::string> all = {"train", "--model", model, "--data", rows, "--adapter-path", out};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  };
  const std::vector<std::pair<std::vector<std::string>, std::vector<std::string>>> cases = {
      {{}, {"verb"}},
      {{"tune"}, {"unknown verb tune"}},
      {{"--nope"}, {"unknown option --nope"}},
      {{"score", "--ids", "[1]"}, {"score", "--model"}},
      {{"score", "--model", model}, {"--ids", "--text"}},
      {{"score", "--model", model, "--ids", "[1]", "--text", "x"}, {"--ids", "--text"}},
      {{"score", "--model", model, "--ids", "[1]", "--nope"}, {"score", "unknown option --nope"}},
      {{"score", "--nope"}, {"unknown option --nope"}},
      {{"trian"}, {"unknown verb trian, did you mean train?"}},
      {{"train", "--modle", "x"}, {"unknown option --modle, did you mean --model?"}},
      {{"generate", "--model", model, "--promt=a"}, {"unknown option --promt=a, did you mean --prompt?"}},
      {{"bench"}, {"bench: a verb is required"}},
      {{"bench", "trian"}, {"bench: unknown verb trian, did you mean train?"}},
      {{"bench", "train"}, {"bench train: --shape is required", "wick bench train --help"}},
      {{"search", "--model", model, "--index", "x", "-k", "0"}, {"--top", "\"0\" is no number above 0 (see"}},
      {{"train", "--model", model, "--data", "x", "--adapter-path", "y", "--max-memory", "nan"},
       {"--max-memory", "nan"}},
      {{"train", "--model", model, "--data", "x", "--adapter-path", "y", "--seed", "-1"}, {"--seed", "-1"}},
      {{"train", "--model", model, "--data", "x", "--adapter-path", "y", "--batch-tokens", "9000000000000000000"},
       {"--batch-tokens", "not in range"}},
      {{"generate", "--model", model, "--ids", "[1]", "--stop-token", "-5"}, {"--stop-token: id 0 is -5"}},
      {{"generate", "--model", "", "--ids", "[1]"}, {"--model: is empty"}},
      {{"generate", "--model=", "--ids", "[1]"}, {"--model: is empty"}},
      {{"info", ""}, {"path: is empty"}},
      {{"score", "--model", model, "--ids", "[1, 2"}, {"--ids"}},
      {{"score", "--model", model, "--ids", "[1, \"a\"]"}, {"--ids"}},
      {{"score", "--model", model, "--ids", ""}, {"--ids"}},
      {{"score", "--model", model, "--ids", "[]"}, {"no tokens"}},
      {{"score", "--model", model, "--ids", "[1, 512]"}, {"512"}},
      {{"score", "--model", model, "--ids", "[1, -1]"}, {"-1"}},
      {{"score", "--model", model, "--ids", "[1]", "--dtype", "f8"}, {"--dtype", "f8"}},
      {{"train", "--model", model, "--data", "x", "--adapter-path", "y", "--dropout", "1"}, {"--dropout", "\"1\""}},
      {{"generate", "--model", model, "--max-tokens", "3"}, {"--prompt", "--ids"}},
      {{"generate", "--model", model, "--ids", "[600]"}, {"600"}},
      {{"generate", "--model", model, "--prompt", "x", "--chat"}, {"--chat", "chat_template.jinja"}},
      {{"generate", "--model", model, "--ids", "[1]", "--chat"}, {"--chat", "--ids"}},
      {{"generate", "--model", model, "--prompt", "x", "--system", "y"}, {"--system", "--chat"}},
      {{"generate", "--model", model, "--prompt", "text"}, {"tokenizer.json", "--ids"}},
      {{"generate", "--model", model, "--ids", "[1]", "--max-tokens", "-1"}, {"max", "-1"}},
      {{"generate", "--model", model, "--ids", "[1]", "--temperature", "-1"}, {"temperature"}},
      {{"generate", "--model", model, "--ids", "[1]", "--temperature", "nan"}, {"temperature"}},
      {{"generate", "--model", model, "--ids", "[1]", "--top-p", "2"}, {"top_p"}},
      {{"fuse", "--model", model, "--adapter-path", "x"}, {"fuse", "--output"}},
      {{"tokenize", "--text", "x"}, {"tokenize", "--model"}},
      {{"tokenize", "--model", tales(), "--decode", "nope"}, {"--decode"}},
      {{"tokenize", "--model", tales(), "--text", "a", "--decode", "[1]"}, {"--text", "--decode"}},
      {{"info"}, {"info", "path"}},
      {{"devices", "extra"}, {"extra"}},
      {{"train", "--model", model, "--data", rows}, {"train", "--adapter-path"}},
      {train({"--iters", "many"}), {"--iters", "many"}},
      {train({"--iters", "-1"}), {"--iters", "-1"}},
      {train({"--batch-size", "0"}), {"--batch-size", "0"}},
      {train({"--learning-rate", "-1"}), {"--learning-rate", "-1"}},
      {train({"--learning-rate", "nan"}), {"--learning-rate"}},
      {train({"--learning-rate", "inf"}), {"--learning-rate"}},
      {train({"--lr-schedule", "exponential"}), {"--lr-schedule", "exponential"}},
      {train({"--beta1", "1"}), {"--beta1"}},
      {train({"--eps", "0"}), {"--eps"}},
      {train({"--weight-decay", "-0.1"}), {"--weight-decay"}},
      {train({"--max-grad-norm", "-1"}), {"--max-grad-norm"}},
      {train({"--grad-accumulation-steps", "0"}), {"--grad-accumulation-steps"}},
      {train({"--warmup-steps", "-1"}), {"--warmup-steps"}},
      {train({"--rank", "0"}), {"--rank"}},
      {train({"--dropout", "1.5"}), {"--dropout"}},
      {train({"--target-modules", "nothing_like_it"}), {"nothing_like_it"}},
      {train({"--max-seq-length", "1"}), {"--max-seq-length"}},
      {train({"--resume", "--resume-adapter", "x"}), {"--resume"}},
      {train({"--resume-adapter", (golden("llama-gqa") / "qv-r8" / "adapter-start").string(), "--rank", "4"}),
       {"--rank"}},
  };
  for (const auto& [arguments, parts] : cases) expect_failure(2, parts, arguments);
  EXPECT_FALSE(fs::exists(out)) << "nothing is written before the options are known to be right";
}

// Every case with fused kernels and with composites.
class CliFused : public ::testing::TestWithParam<const char*> {
 protected:
  RunOptions options_{.environment = {{"WICK_FUSED", GetParam()}}};
};

TEST_P(CliFused, ScoreWritesTheReferenceLogits) {
  for (const std::string& name : kModels) {
    SCOPED_TRACE(name);
    const TempDir folder;
    const Json sequences = sequences_of(golden(name) / "logits.safetensors");
    write_file(folder / "ids.json", sequences.dump());
    const Json json = expect_json({"score", "--model", model_of(name), "--ids-file", folder / "ids.json", "--dtype",
                                   "f32", "--logits", folder / "logits.safetensors", "--json"},
                                  options_);
    const auto logits = logits_of(folder / "logits.safetensors");
    EXPECT_LE(largest_difference(logits, logits_of(golden(name) / "logits.safetensors")), 2e-4);

    // The log-probabilities are those of the logits, and the perplexities those of the log-probabilities.
    ASSERT_EQ(json["sequences"].size(), sequences.size());
    double total = 0;
    std::size_t count = 0;
    for (std::size_t i = 0; i < sequences.size(); ++i) {
      const Json& one = json["sequences"][i];
      const auto ids = sequences[i].get<std::vector<std::size_t>>();
      EXPECT_EQ(one["ids"], sequences[i]);
      const auto log_probs = one["log_probs"].get<std::vector<double>>();
      ASSERT_EQ(log_probs.size(), ids.size() - 1);
      const std::size_t vocab = logits[i].size() / ids.size();
      double sum = 0;
      for (std::size_t t = 0; t < log_probs.size(); ++t) {
        EXPECT_NEAR(log_probs[t], log_probability(logits[i], t, vocab, ids[t + 1]), 1e-4);
        sum += log_probs[t];
      }
      total += sum;
      count += log_probs.size();
      if (log_probs.empty()) {
        EXPECT_TRUE(one["perplexity"].is_null());
      } else {
        const double perplexity = std::exp(-sum / static_cast<double>(log_probs.size()));
        EXPECT_NEAR(one["perplexity"].get<double>() / perplexity, 1, 1e-6);
      }
    }
    EXPECT_EQ(json["tokens"], count);
    EXPECT_NEAR(json["perplexity"].get<double>() / std::exp(-total / static_cast<double>(count)), 1, 1e-6);
  }
}

TEST_P(CliFused, GenerateContinuesAsTheReference) {
  for (const std::string& name : kModels) {
    SCOPED_TRACE(name);
    const Json cases = read_json_file(golden(name) / "greedy.json");
    const Json& one = cases[cases.size() - 1];
    const Json json = expect_json(
        {"generate", "--model", model_of(name), "--ids", one["prompt"].dump(), "--max-tokens",
         std::to_string(one["continuation"].size()), "--temperature", "0", "--ignore-eos", "--dtype", "f32", "--json"},
        options_);
    EXPECT_EQ(json["ids"], one["continuation"]);
    EXPECT_TRUE(json["text"].is_string());
  }
}

INSTANTIATE_TEST_SUITE_P(Kernels, CliFused, ::testing::Values("1", "0"),
                         [](const auto& info) { return std::string(info.param) == "1" ? "fused" : "composite"; });

TEST(CliScore, TextAndIdsAgree) {
  const std::string text = "Once upon a time there was a king.";
  const Json tokens = expect_json({"tokenize", "--model", tales(), "--text", text, "--json"});
  const Json by_text = expect_json({"score", "--model", tales(), "--text", text, "--json"});
  EXPECT_EQ(by_text["sequences"][0]["ids"], tokens["ids"]);
  EXPECT_EQ(expect_json({"score", "--model", tales(), "--ids", tokens["ids"].dump(), "--json"}), by_text);
  EXPECT_EQ(by_text["tokens"], tokens["ids"].size() - 1);

  const std::string plain = expect_success({"score", "--model", tales(), "--text", text});
  EXPECT_EQ(static_cast<std::size_t>(std::count(plain.begin(), plain.end(), '\n')), tokens["ids"].size()) << plain;
  EXPECT_NE(plain.find("perplexity"), std::string::npos);
}

TEST(CliScore, Bf16IsNearF32) {
  const std::vector<std::string> f32 = {"score", "--model", tales(), "--text", "The king said to his son", "--json"};
  std::vector<std::string> bf16 = f32;
  bf16.insert(bf16.end(), {"--dtype", "bf16"});
  const double a = expect_json(f32)["mean_log_prob"].get<double>();
  const double b = expect_json(bf16)["mean_log_prob"].get<double>();
  EXPECT_NEAR(a, b, 0.1);
  EXPECT_NE(a, b);
}

TEST(CliGenerate, WithAnAdapter) {
  const fs::path adapter = golden("llama-gqa") / "all-r4-rs" / "adapter-end";
  const std::vector<std::string> base = {"generate",     "--model", model_of("llama-gqa"), "--ids", "[5, 6, 7]",
                                         "--max-tokens", "24",      "--temperature",       "0",     "--ignore-eos",
                                         "--json"};
  std::vector<std::string> adapted = base;
  adapted.insert(adapted.end(), {"--adapter-path", adapter});
  const Json ids = expect_json(adapted)["ids"];
  EXPECT_EQ(ids.size(), 24U);
  EXPECT_NE(ids, expect_json(base)["ids"]);
  // Greedy decoding picks the largest of the logits that score gives for the same tokens.
  const TempDir folder;
  Json all = {5, 6, 7};
  all.insert(all.end(), ids.begin(), ids.end());
  expect_success({"score", "--model", model_of("llama-gqa"), "--adapter-path", adapter, "--ids", all.dump(), "--logits",
                  folder / "logits.safetensors"});
  const std::vector<float> logits = logits_of(folder / "logits.safetensors").at(0);
  ASSERT_EQ(logits.size(), 512U * all.size());
  for (std::size_t t = 0; t < ids.size(); ++t) {
    const auto row = logits.begin() + static_cast<std::ptrdiff_t>((t + 2) * 512);
    EXPECT_EQ(ids[t], std::max_element(row, row + 512) - row) << t;
  }
}

TEST(CliGenerate, PromptStreamsAndSeedsRepeat) {
  const std::vector<std::string> base = {"generate",         "--model",      tales(), "--prompt",
                                         "Once upon a time", "--max-tokens", "16"};
  const auto with = [&](std::vector<std::string> more) {
    more.insert(more.begin(), base.begin(), base.end());
    return more;
  };
  const Json json = expect_json(with({"--temperature", "0", "--json"}));
  const RunResult streamed = wick(with({"--temperature", "0"}));
  EXPECT_EQ(streamed.code, 0);
  EXPECT_EQ(streamed.out, "Once upon a time" + json["text"].get<std::string>() + "\n");
  EXPECT_EQ(expect_success(with({"--temperature", "0", "--quiet"})), json["text"].get<std::string>() + "\n");

  const auto sampled = [&](const char* seed) {
    return expect_json(with({"--temperature", "1", "--seed", seed, "--ignore-eos", "--json"}))["ids"];
  };
  EXPECT_EQ(sampled("7"), sampled("7"));
  EXPECT_NE(sampled("7"), sampled("8"));
}

TEST(CliGenerate, ChatGoesThroughTheTemplate) {
  const Json chat = read_json_file(golden("tales") / "chat.json").at(0);
  const Json prompt =
      expect_json({"tokenize", "--model", tales(), "--text", chat["text"], "--no-special-tokens", "--json"});
  const std::vector<std::string> rest = {"--max-tokens", "2", "--temperature", "0", "--json"};
  const auto run = [&](std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {"generate", "--model", tales()});
    arguments.insert(arguments.end(), rest.begin(), rest.end());
    return expect_json(arguments);
  };
  const Json templated =
      run({"--chat", "--system", chat["messages"][0]["content"], "--prompt", chat["messages"][1]["content"]});
  const Json spelled = run({"--ids", prompt["ids"].dump()});
  EXPECT_EQ(templated["prompt_tokens"], prompt["ids"].size());
  EXPECT_EQ(templated["ids"], spelled["ids"]);
}

TEST(CliFuse, ScoresAsTheAdapter) {
  const TempDir folder;
  for (const std::string& name : {std::string("llama-gqa"), std::string("qwen2-untied"), std::string("qwen3-qknorm")}) {
    for (const char* run : {"qv-r8", "all-r4-rs"}) {
      SCOPED_TRACE(name + " " + run);
      const fs::path adapter = golden(name) / run / "adapter-end";
      const fs::path merged = folder / (name + run);
      const Json report = expect_json(
          {"fuse", "--model", model_of(name), "--adapter-path", adapter, "--output", merged, "--verify", "--json"});
      EXPECT_GT(report["modules"].get<int>(), 0);
      EXPECT_GT(report["largest_change"].get<double>(), 0);
      EXPECT_LE(report["largest_logit_difference"].get<double>(), 2e-4);
      write_file(folder / "ids.json", sequences_of(golden(name) / "logits.safetensors").dump());
      const auto score = [&](const fs::path& model, std::vector<std::string> more) {
        const std::string out = folder / "logits.safetensors";
        more.insert(more.begin(),
                    {"score", "--model", model, "--ids-file", folder / "ids.json", "--logits", out, "--json"});
        expect_success(more);
        return logits_of(out);
      };
      const auto expected = logits_of(golden(name) / run / "logits-end.safetensors");
      const auto fused = score(merged, {});
      EXPECT_LE(largest_difference(fused, expected), 2e-4);
      EXPECT_LE(largest_difference(fused, score(model_of(name), {"--adapter-path", adapter})), 2e-4);
      for (const auto& file : fs::directory_iterator(model_of(name))) {
        EXPECT_TRUE(fs::exists(merged / file.path().filename())) << file.path();
      }
    }
  }
}

TEST(CliFuse, ReportsTheRoundingOfBf16Weights) {
  const TempDir folder;
  const std::vector<std::string> arguments = {
      "fuse",     "--model",         tales(),   "--adapter-path", golden("tales") / "qv-r8" / "adapter-end",
      "--output", folder / "merged", "--verify"};
  const std::string out = expect_success(arguments);
  EXPECT_NE(out.find("rounded"), std::string::npos) << out;
  EXPECT_NE(out.find("logit difference"), std::string::npos) << out;
  std::vector<std::string> with_json = arguments;
  with_json.push_back("--json");
  const Json report = expect_json(with_json);  // replaces the folder
  EXPECT_EQ(report["modules"], 16);
  EXPECT_GT(report["largest_rounding_error"].get<double>(), 0);
  EXPECT_LT(report["largest_rounding_error"].get<double>(), 0.01);
  EXPECT_GT(report["largest_logit_difference"].get<double>(), 0);
  EXPECT_EQ(expect_json({"info", folder / "merged", "--json"})["parameters"],
            expect_json({"info", tales(), "--json"})["parameters"]);
  expect_failure(
      2, {"inputs"},
      {"fuse", "--model", tales(), "--adapter-path", golden("tales") / "qv-r8" / "adapter-end", "--output", tales()});
}

TEST(CliTokenize, BothWays) {
  const Json cases = read_json_file(golden("tales") / "tokenizer.json");
  for (const std::size_t i : {std::size_t{0}, std::size_t{1}, cases.size() / 2, cases.size() - 1}) {
    const Json& one = cases[i];
    const std::string text = one["text"].get<std::string>();
    SCOPED_TRACE(text);
    const Json json = expect_json({"tokenize", "--model", tales(), "--text", text, "--json"});
    EXPECT_EQ(json["ids"], one["ids"]);
    EXPECT_EQ(json["tokens"].size(), one["ids"].size());
    EXPECT_EQ(expect_json({"tokenize", "--model", tales(), "--json"}, {.input = text})["ids"], one["ids"]);
    const std::string ids = one["ids"].dump();
    EXPECT_EQ(expect_success({"tokenize", "--model", tales(), "--decode", ids}),
              one["decoded"].get<std::string>() + "\n");
    EXPECT_EQ(expect_json({"tokenize", "--model", tales() / "tokenizer.json", "--decode", ids, "--skip-special-tokens",
                           "--json"})["text"],
              one["decoded_skip"]);
  }
}

TEST(CliInfo, ModelAdapterAndFile) {
  const Json model = expect_json({"info", model_of("llama-gqa"), "--json"});
  EXPECT_EQ(model["kind"], "model");
  EXPECT_EQ(model["architecture"], "llama");
  EXPECT_EQ(model["hidden_size"], 64);
  EXPECT_EQ(model["num_key_value_heads"], 2);
  EXPECT_EQ(model["weights"]["parameters"], model["parameters"]);
  EXPECT_EQ(expect_json({"info", model_of("qwen2-untied"), "--json"})["files"], 6);
  EXPECT_EQ(expect_json({"info", tales(), "--json"})["weights"]["dtypes"].begin().key(), "BF16");

  const fs::path adapter = golden("llama-gqa") / "qv-r8" / "adapter-start";
  const Json lora = expect_json({"info", adapter, "--json"});
  EXPECT_EQ(lora["kind"], "adapter");
  EXPECT_EQ(lora["rank"], 8);
  EXPECT_EQ(lora["alpha"], 16);
  EXPECT_EQ(lora["weights"]["tensors"], 12);

  const Json file = expect_json({"info", adapter / "adapter_model.safetensors", "--tensors", "--json"});
  EXPECT_EQ(file["kind"], "safetensors");
  EXPECT_EQ(file["weights"]["tensor_list"].size(), 12U);

  for (const fs::path& path : {model_of("llama-gqa"), adapter, adapter / "adapter_model.safetensors"}) {
    const std::string text = expect_success({"info", path, "--tensors"});
    EXPECT_NE(text.find("parameters"), std::string::npos) << text;
    EXPECT_NE(text.find("model.layers.0.self_attn.q_proj"), std::string::npos) << text;
  }
}

TEST(CliDevices, NamesTheCpu) {
  const Json json = expect_json({"devices", "--json"});
  EXPECT_EQ(json["devices"][0]["type"], "cpu");
  EXPECT_GE(json["devices"][0]["threads"].get<int>(), 1);
  EXPECT_NE(expect_success({"devices"}).find("threads"), std::string::npos);
  EXPECT_TRUE(json["cuda"]["missing"].is_string());  // why there is no GPU; empty where there is one
}

TEST(CliBench, MeasuresAnyShape) {
  const std::string shape = std::string(WICK_TEST_DATA) + "/golden/llama-gqa/model/config.json";
  const Json train = expect_json({"bench", "train", "--shape", shape, "--device", "cpu", "--sequences", "2", "--length",
                                  "8", "--rank", "2", "--steps", "2", "--json"});
  EXPECT_EQ(train["work"], "train");
  EXPECT_GT(train["tokens_per_second"].get<double>(), 0);
  EXPECT_GT(train["loss"].get<double>(), 0);
  const Json decode =
      expect_json({"bench", "decode", "--shape", shape, "--device", "cpu", "--prompt", "4", "--tokens", "3", "--json"});
  EXPECT_GT(decode["token_ms"].get<double>(), 0);
  const Json prefill = expect_json(
      {"bench", "prefill", "--shape", shape, "--device", "cpu", "--prompt", "9", "--dtype", "f32", "--json"});
  EXPECT_GT(prefill["ms"].get<double>(), 0);
}

TEST(CliProfile, OfBenchmarks) {
  const TempDir folder;
  const std::string shape = std::string(WICK_TEST_DATA) + "/golden/llama-gqa/model/config.json";
  const auto profile = [&](const std::string& verb, const std::vector<std::string>& more) {
    const fs::path file = folder / (verb + ".json");
    std::vector<std::string> words = {"bench", verb, "--shape", shape, "--device", "cpu", "--json", "--profile", file};
    words.insert(words.end(), more.begin(), more.end());
    const RunResult result = wick(words);
    EXPECT_EQ(result.code, 0) << result.err;
    EXPECT_EQ(parse_json(result.out, "standard output").at("work"), verb);
    EXPECT_NE(result.err.find("all kernels"), std::string::npos) << result.err;
    std::size_t products = 0;
    const Json trace = read_json_file(file);
    for (const Json& event : trace.at("traceEvents")) {
      products += event.at("name").get<std::string>().starts_with("gem") ? 1 : 0;
    }
    return products;
  };
  EXPECT_GT(profile("train", {"--sequences", "1", "--length", "8", "--rank", "2", "--steps", "1"}), 10U);
  const std::size_t one = profile("decode", {"--prompt", "4", "--tokens", "1", "--repeats", "1"});
  const std::size_t three = profile("decode", {"--prompt", "4", "--tokens", "3", "--repeats", "2"});
  EXPECT_GT(one, 10U);
  EXPECT_EQ(three, 3 * one);  // of the last repetition, without the prompt
  EXPECT_EQ(profile("prefill", {"--prompt", "9", "--repeats", "2"}),
            2 * profile("prefill", {"--prompt", "9", "--repeats", "1"}));
}

TEST(CliProfile, OfGenerating) {
  const TempDir folder;
  const std::vector<std::string> words = {"generate",     "--model", model_of("llama-gqa"), "--ids", "[1, 2, 3]",
                                          "--max-tokens", "4",       "--ignore-eos",        "--json"};
  std::vector<std::string> with = words;
  with.insert(with.end(), {"--profile", folder / "new" / "trace.json"});
  const RunResult result = wick(with);
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_EQ(parse_json(result.out, "standard output").at("ids"), expect_json(words).at("ids"));
  EXPECT_NE(result.err.find("between kernels"), std::string::npos) << result.err;
  EXPECT_GT(read_json_file(folder / "new" / "trace.json").at("traceEvents").size(), 10U);
}

TEST(CliProfile, RefusesAFileThatCannotBe) {
  expect_failure(2, {"--profile", "/dev/null"},
                 {"generate", "--model", model_of("llama-gqa"), "--ids", "[1]", "--max-tokens", "1", "--profile",
                  "/dev/null/trace.json"});
}

TEST(CliDevices, NamesLibrariesThatAreMissing) {
  const RunOptions without = {.environment = {{"WICK_LIBRARIES", "off"}}};
  const Json cuda = expect_json({"devices", "--json"}, without).at("cuda");
  EXPECT_NE(cuda.at("missing"), "");  // no GPU is to be seen here
  if (cuda.at("libraries").empty()) GTEST_SKIP() << "built without CUDA";
  const RunResult text = wick({"devices"}, without);
  EXPECT_EQ(text.code, 0) << text.err;
  for (const char* name : {"cuBLASLt", "cuDNN", "NCCL"}) {
    EXPECT_FALSE(cuda.at("libraries").at(name).at("there").get<bool>()) << name;
    EXPECT_NE(text.out.find(std::string(name) + " is missing: WICK_LIBRARIES=off"), std::string::npos) << text.out;
  }
}

TEST(CliDevices, RefusesWhatIsNotThere) {
  const std::string shape = std::string(WICK_TEST_DATA) + "/golden/llama-gqa/model/config.json";
  for (const char* device : {"metal", "cuda:x", "cuda:99"}) {
    expect_failure(3, {"device", device}, {"bench", "prefill", "--shape", shape, "--device", device});
  }
}

}  // namespace
}  // namespace wick::test
