#include <fmt/format.h>
#include <gtest/gtest.h>

#include <limits>

#include "io/json.h"
#include "io_test_util.h"
#include "lora_test_util.h"

namespace wick {
namespace {

using test::decoder_modules;
using test::expect_error;
using test::read_file;

const std::filesystem::path kData = WICK_TEST_DATA;
const std::vector<std::string> kModels{"llama-gqa", "qwen2-untied", "qwen3-qknorm", "tales"};
const std::vector<ModuleInfo> kModules = decoder_modules({4, 64, 64, 16, 176});

using Names = std::vector<std::string>;

std::vector<std::string> names_of(const std::vector<LoraTarget>& targets) {
  std::vector<std::string> out;
  for (const auto& target : targets) out.push_back(target.name);
  return out;
}

// A config file with one key set: R"("r": 4)".
std::string with(std::string_view pair) {
  std::string text = R"({"peft_type": "LORA")";
  if (pair.find("target_modules") == std::string_view::npos) text += R"(, "target_modules": ["q_proj"])";
  return text + ", " + std::string(pair) + "}";
}

void refuses(ErrorCode code, std::string_view pair, std::string_view part) {
  expect_error(code, part, [&] { parse_lora_config(with(pair)); });
}

TEST(LoraConfig, WritesGoldenFilesBackToTheByte) {
  for (const auto& model : kModels) {
    for (const auto* run : {"qv-r8", "all-r4-rs"}) {
      for (const auto* side : {"adapter-start", "adapter-end"}) {
        const auto text = read_file(kData / "golden" / model / run / side / "adapter_config.json");
        ASSERT_FALSE(text.empty()) << model;
        EXPECT_EQ(dump_lora_config(parse_lora_config(text)), text) << model << run << side;
      }
    }
  }
}

TEST(LoraConfig, ReadsEveryField) {
  const auto text = R"({
  "alpha_pattern": {"v_proj": 1.5}, "auto_mapping": {"base_model_class": "LlamaModel", "fixed": true},
  "base_model_name_or_path": "models/tales", "exclude_modules": ".*\\.0\\..*", "inference_mode": false,
  "init_lora_weights": "gaussian", "layers_pattern": "layers", "layers_to_transform": 1, "lora_alpha": 12.5,
  "lora_dropout": 0.05, "peft_type": "LORA", "peft_version": "0.15.0", "r": 6, "rank_pattern": {"z": 3, "a": 4},
  "revision": "main", "target_modules": ["up_proj", "down_proj"], "task_type": "CAUSAL_LM", "use_rslora": true})";
  const LoraConfig config = parse_lora_config(text);
  EXPECT_EQ(config.rank, 6);
  EXPECT_EQ(config.alpha, 12.5);
  EXPECT_TRUE(config.use_rslora);
  EXPECT_EQ(config.dropout, 0.05);
  EXPECT_EQ(std::get<Names>(config.target_modules), (Names{"up_proj", "down_proj"}));
  EXPECT_EQ(std::get<std::string>(config.exclude_modules), ".*\\.0\\..*");
  EXPECT_EQ(config.layers_to_transform, std::vector<std::int64_t>{1});
  EXPECT_EQ(config.layers_pattern, Names{"layers"});
  EXPECT_EQ(config.rank_pattern, (ModulePatterns<std::int64_t>{{"z", 3}, {"a", 4}}));  // in the file's order
  EXPECT_EQ(config.alpha_pattern, (ModulePatterns<double>{{"v_proj", 1.5}}));
  EXPECT_EQ(config.base_model_name_or_path, "models/tales");
  EXPECT_EQ(config.revision, "main");
  EXPECT_EQ(config.peft_version, "0.15.0");
  EXPECT_FALSE(config.inference_mode);
  EXPECT_EQ(std::get<std::string>(config.init_lora_weights), "gaussian");
  EXPECT_EQ(config.auto_mapping, R"({"base_model_class": "LlamaModel", "fixed": true})");

  const LoraConfig again = parse_lora_config(dump_lora_config(config));
  EXPECT_EQ(dump_lora_config(again), dump_lora_config(config));
  EXPECT_EQ(again.rank_pattern, (ModulePatterns<std::int64_t>{{"a", 4}, {"z", 3}}));
  EXPECT_EQ(again.alpha, 12.5);
}

TEST(LoraConfig, LeavesOutAsPeftDoes) {
  const LoraConfig config = parse_lora_config(R"({"peft_type": "LORA", "target_modules": "all-linear"})");
  EXPECT_EQ(config.rank, 8);
  EXPECT_EQ(config.alpha, 8);
  EXPECT_EQ(config.dropout, 0);
  EXPECT_FALSE(config.use_rslora);
  EXPECT_FALSE(config.task_type.has_value());
}

TEST(LoraConfig, RefusesWhatChangesTheResult) {
  for (const std::string_view pair : {R"("use_dora": true)",
                                      R"("modules_to_save": ["lm_head"])",
                                      R"("bias": "all")",
                                      R"("bias": "lora_only")",
                                      R"("lora_bias": true)",
                                      R"("fan_in_fan_out": true)",
                                      R"("layer_replication": [[0, 4], [2, 5]])",
                                      R"("megatron_config": {"a": 1})",
                                      R"("corda_config": {"a": 1})",
                                      R"("eva_config": {"rho": 2.0})",
                                      R"("loftq_config": {"bits": 4})",
                                      R"("use_qalora": true)",
                                      R"("arrow_config": {"top_k": 2})",
                                      R"("velora_config": {"a": 1})",
                                      R"("kasa_config": {"a": 1})",
                                      R"("monteclora_config": {"a": 1})",
                                      R"("lora_ga_config": {"a": 1})",
                                      R"("use_bdlora": {"a": 1})",
                                      R"("alora_invocation_tokens": [1])",
                                      R"("target_parameters": ["experts.up"])",
                                      R"("trainable_token_indices": [1, 2])",
                                      R"("ensure_weight_tying": true)",
                                      R"("some_later_option": 0)",
                                      R"("some_later_option": "x")"}) {
    const auto key = pair.substr(0, pair.find(':'));
    refuses(ErrorCode::unsupported, pair, fmt::format("adapter_config.json: {} is ", key));
  }
  for (const std::string_view method : {"pissa", "pissa_niter_16", "corda", "olora", "OLoRA", "loftq", "lora_ga"}) {
    refuses(ErrorCode::unsupported, fmt::format(R"("init_lora_weights": "{}")", method), "\"init_lora_weights\" is");
  }
  expect_error(ErrorCode::unsupported, "\"peft_type\" is \"IA3\", expected \"LORA\"",
               [] { parse_lora_config(R"({"peft_type": "IA3", "target_modules": ["q_proj"]})"); });
}

TEST(LoraConfig, ToleratesWhatChangesNothing) {
  for (const std::string_view pair :
       {R"("some_later_option": null)", R"("some_later_option": false)", R"("some_later_option": "")",
        R"("some_later_option": [])", R"("some_later_option": {})", R"("bias": "none")", R"("modules_to_save": [])",
        R"("qalora_group_size": 32)", R"("megatron_core": null)", R"("init_lora_weights": false)",
        R"("init_lora_weights": "mica")", R"("rank_pattern": null)", R"("runtime_config": {"a": 1})"}) {
    EXPECT_EQ(parse_lora_config(with(pair)).rank, 8) << pair;
  }
}

TEST(LoraConfig, RefusesBrokenFiles) {
  refuses(ErrorCode::format, R"("r": 0)", "\"r\" is 0, expected 1 to 65536");
  refuses(ErrorCode::format, R"("r": -3)", "\"r\" is -3");
  refuses(ErrorCode::format, R"("r": 65537)", "\"r\" is 65537");
  refuses(ErrorCode::format, R"("r": 99999999999999999999)", "\"r\" is");
  refuses(ErrorCode::format, R"("r": 8.0)", "\"r\" is 8.0, expected an integer");
  refuses(ErrorCode::format, R"("r": NaN)", "not valid JSON");
  refuses(ErrorCode::format, R"("r": "8")", "\"r\" is \"8\"");
  refuses(ErrorCode::format, R"("r": true)", "\"r\" is true");
  refuses(ErrorCode::format, R"("r": [8])", "\"r\" is");
  refuses(ErrorCode::format, R"("lora_alpha": "16")", "\"lora_alpha\" is \"16\", expected a number");
  refuses(ErrorCode::format, R"("lora_alpha": Infinity)", "not valid JSON");
  refuses(ErrorCode::format, R"("lora_alpha": 1e999)", "not valid JSON");
  refuses(ErrorCode::format, R"("lora_dropout": 1.0)", "\"lora_dropout\" is 1");
  refuses(ErrorCode::format, R"("lora_dropout": -0.1)", "\"lora_dropout\" is -0.1");
  refuses(ErrorCode::format, R"("use_rslora": 1)", "\"use_rslora\" is 1, expected true or false");
  refuses(ErrorCode::format, R"("target_modules": null)", "\"target_modules\" is empty");
  refuses(ErrorCode::format, R"("target_modules": [])", "\"target_modules\" is empty");
  refuses(ErrorCode::format, R"("target_modules": "")", "\"target_modules\" is empty");
  refuses(ErrorCode::format, R"("target_modules": 5)", "\"target_modules\" is 5, expected a list");
  refuses(ErrorCode::format, R"("target_modules": ["q_proj", 1])", "\"target_modules\" is 1, expected a string");
  refuses(ErrorCode::format, R"("exclude_modules": {"a": 1})", "\"exclude_modules\" is an object");
  refuses(ErrorCode::format, R"("rank_pattern": ["a"])", "\"rank_pattern\" is a list");
  refuses(ErrorCode::format, R"("rank_pattern": {"q": 0})", "\"rank_pattern\" \"q\" is 0, expected 1 to 65536");
  refuses(ErrorCode::format, R"("rank_pattern": {"q": 1.5})", "\"rank_pattern\": \"q\" is 1.5");
  refuses(ErrorCode::format, R"("rank_pattern": {"q": null})", "\"q\" is missing");
  refuses(ErrorCode::format, R"("rank_pattern": {"q": 1, "q": 2})", "given twice");
  refuses(ErrorCode::format, R"("alpha_pattern": {"q": "x"})", "\"alpha_pattern\": \"q\" is \"x\"");
  refuses(ErrorCode::format, R"("layers_to_transform": ["a"])", "\"layers_to_transform\" is \"a\"");
  refuses(ErrorCode::format, R"("layers_to_transform": "")", "\"layers_to_transform\" is \"\"");
  refuses(ErrorCode::format, R"("layers_to_transform": [-1])", "\"layers_to_transform\" has -1");
  refuses(ErrorCode::format, R"("layers_to_transform": [0], "target_modules": ".*q_proj")", "cannot be used with");
  refuses(ErrorCode::format, R"("layers_pattern": ["layers"])", "without \"layers_to_transform\"");
  refuses(ErrorCode::format, R"("base_model_name_or_path": 1)", "\"base_model_name_or_path\" is 1");
  refuses(ErrorCode::format, R"("init_lora_weights": 3)", "\"init_lora_weights\" is 3");

  std::string many = R"("rank_pattern": {)";
  for (int i = 0; i < 20'000; ++i) many += fmt::format("{}\"m{}\": 4", i == 0 ? "" : ", ", i);
  refuses(ErrorCode::format, many + "}", "\"rank_pattern\" has 20000 entries");

  for (const std::string_view text : {"", "[]", "5", "{", "{\"peft_type\"", "\x80", "null"}) {
    expect_error(ErrorCode::format, "adapter_config.json", [&] { parse_lora_config(text); });
  }
  expect_error(ErrorCode::format, "\"peft_type\" is missing",
               [] { parse_lora_config(R"({"target_modules": ["q_proj"]})"); });
}

TEST(LoraConfig, ValidatesWhatACallerSets) {
  LoraConfig config;
  config.target_modules = Names{"q_proj"};
  EXPECT_NO_THROW(validate(config));
  config.alpha = -4;
  EXPECT_NO_THROW(validate(config));
  config.alpha = std::numeric_limits<double>::quiet_NaN();
  expect_error(ErrorCode::invalid_argument, "\"lora_alpha\" is nan", [&] { dump_lora_config(config); });
  config.alpha = 4;
  config.dropout = std::numeric_limits<double>::quiet_NaN();
  expect_error(ErrorCode::invalid_argument, "\"lora_dropout\" is nan", [&] { validate(config); });
  config.dropout = 0;
  config.rank_pattern = {{"q", 1}, {"q", 2}};
  expect_error(ErrorCode::invalid_argument, "\"rank_pattern\" has \"q\" twice", [&] { validate(config); });
}

// Every case of make_targets.py: the same modules with the same ranks and scales as PEFT, and an error where it has
// one.
TEST(LoraTargets, AreThoseOfPeft) {
  const Json file = read_json_file(kData / "lora" / "targets.json");
  std::vector<ModuleInfo> modules;
  for (const auto& row : file["modules"]) {
    const auto kind = row[3].get<std::string>();
    modules.push_back({row[0], row[1], row[2],
                       kind == "linear"        ? ModuleKind::linear
                       : kind == "output_head" ? ModuleKind::output_head
                                               : ModuleKind::other});
  }
  std::size_t resolved = 0;
  for (const auto& one : file["cases"]) {
    const auto text = one["config"].get<std::string>();
    SCOPED_TRACE(text);
    if (one.contains("error")) {
      EXPECT_THROW(resolve_targets(parse_lora_config(text), modules), Error);
      continue;
    }
    ++resolved;
    const auto targets = resolve_targets(parse_lora_config(text), modules);
    ASSERT_EQ(targets.size(), one["targets"].size());
    for (std::size_t i = 0; i < targets.size(); ++i) {
      const auto& expected = one["targets"][i];
      const auto& module = modules[expected[0].get<std::size_t>()];
      EXPECT_EQ(targets[i].name, module.name);
      EXPECT_EQ(targets[i].in_features, module.in_features);
      EXPECT_EQ(targets[i].out_features, module.out_features);
      EXPECT_EQ(targets[i].rank, expected[1].get<std::int64_t>());
      EXPECT_EQ(targets[i].alpha, expected[2].get<double>());
      EXPECT_EQ(targets[i].scale, expected[3].get<double>());
    }
  }
  EXPECT_GE(resolved, 50U);
}

TEST(LoraTargets, NamesWhatExistsWhenNothingMatches) {
  LoraConfig config;
  config.target_modules = Names{"qproj", "query"};
  expect_error(ErrorCode::invalid_argument,
               R"(target_modules ["qproj", "query"] selects none of the model's 29 modules; it )"
               R"(has "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", )"
               R"("down_proj", "lm_head", for instance "model.layers.0.self_attn.q_proj")",
               [&] { resolve_targets(config, kModules); });
  config.target_modules = "all-linear";
  config.exclude_modules = ".*";
  expect_error(ErrorCode::invalid_argument, "exclude_modules takes 28 out", [&] { resolve_targets(config, kModules); });
  config.exclude_modules = {};
  expect_error(ErrorCode::invalid_argument, "selects none of the model's 0 modules",
               [&] { resolve_targets(config, {}); });
}

TEST(LoraTargets, RefusesLayersThatDoNotExist) {
  LoraConfig config;
  config.target_modules = Names{"q_proj"};
  config.layers_to_transform = {1, 4};
  expect_error(ErrorCode::invalid_argument, "layers_to_transform has 4, but the layers that target_modules",
               [&] { resolve_targets(config, kModules); });
  config.layers_to_transform = {1};
  config.layers_pattern = {"h"};
  expect_error(ErrorCode::invalid_argument, "selects none", [&] { resolve_targets(config, kModules); });
  config.layers_pattern = {"layers"};
  EXPECT_EQ(names_of(resolve_targets(config, kModules)), Names{"model.layers.1.self_attn.q_proj"});
  const std::vector<ModuleInfo> huge{{"model.layers.99999999999999999999.q_proj", 8, 8}};
  expect_error(ErrorCode::invalid_argument, "selects none", [&] { resolve_targets(config, huge); });
}

TEST(LoraTargets, StopsRegularExpressionsThatTakeForever) {
  const std::string bomb = "(([a-z._0-9]*)*)*[!?]";
  LoraConfig config;
  config.target_modules = bomb;
  expect_error(ErrorCode::invalid_argument, "takes too many steps", [&] { resolve_targets(config, kModules); });
  config.target_modules = Names{"q_proj"};
  config.exclude_modules = bomb;
  expect_error(ErrorCode::invalid_argument, "takes too many steps", [&] { resolve_targets(config, kModules); });
  config.exclude_modules = {};
  config.rank_pattern = {{bomb, 2}};
  expect_error(ErrorCode::invalid_argument, "takes too many steps", [&] { resolve_targets(config, kModules); });
  config.rank_pattern = {};
  config.layers_to_transform = {1};
  config.layers_pattern = {bomb};
  expect_error(ErrorCode::invalid_argument, "takes too many steps", [&] { resolve_targets(config, kModules); });
}

TEST(LoraTargets, RefusesBrokenRegularExpressions) {
  LoraConfig config;
  for (const std::string& regex :
       {std::string("("), std::string("a**"), std::string("(?P<x>a)(?P<x>b)"), std::string("\\"), std::string("[z-a]"),
        std::string("\xff"), std::string("((a{1000}){1000}){1000}"), std::string(300, '(') + std::string(300, ')'),
        std::string(40'000, 'a')}) {
    config.target_modules = regex;
    expect_error(ErrorCode::invalid_argument, "regular expression", [&] { resolve_targets(config, kModules); });
  }
  config.target_modules = ".{,40}q_proj";  // Python's {0,40}
  expect_error(ErrorCode::invalid_argument, "write {0,n} for {,n}", [&] { resolve_targets(config, kModules); });
}

TEST(LoraTargets, FindsEntriesThatMatchNothing) {
  LoraConfig config;
  config.target_modules = Names{"q_proj", "vproj"};
  config.exclude_modules = Names{"lm_head", "head"};
  config.rank_pattern = {{"q_proj", 2}, {"k_proj", 4}};
  config.alpha_pattern = {{".*", 2}, {"o_proj", 4}};
  EXPECT_EQ(unmatched_entries(config, kModules), (Names{"target_modules \"vproj\"", "exclude_modules \"head\"",
                                                        "rank_pattern \"k_proj\"", "alpha_pattern \"o_proj\""}));
  config = {};
  config.target_modules = "all-linear";
  EXPECT_TRUE(unmatched_entries(config, kModules).empty());
}

}  // namespace
}  // namespace wick
