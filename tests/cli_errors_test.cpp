// Broken files and broken streams: the program ends with the code of what is wrong, and one line that names it.
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "cli_test_util.h"
#include "wick/safetensors.h"

namespace wick::test {
namespace {

/// A copy of a folder of the test data that a case may break.
class Copy {
 public:
  explicit Copy(const fs::path& from) {
    fs::copy(from, folder_ / "copy", fs::copy_options::recursive);
    for (const auto& file : fs::directory_iterator(path())) fs::permissions(file, fs::perms::owner_all);
  }
  fs::path path() const { return folder_ / "copy"; }
  fs::path operator/(std::string_view name) const { return path() / name; }
  void remove(std::string_view name) const { fs::remove(path() / name); }
  void write(std::string_view name, std::string_view text) const { write_file(path() / name, text); }
  /// Sets keys of a JSON file; null removes one.
  void patch(std::string_view name, const Json& changes) const {
    Json json = parse_json(read_file(path() / name), name);
    json.merge_patch(changes);
    write(name, json.dump());
  }
  void truncate(std::string_view name, std::size_t bytes) const {
    fs::resize_file(path() / name, fs::file_size(path() / name) - bytes);
  }
  /// Rewrites a safetensors file with changed entries.
  void edit(std::string_view name, const std::function<void(std::vector<SafetensorsEntry>&)>& change) const {
    const SafetensorsFile file = SafetensorsFile::open(path() / name);
    std::vector<SafetensorsEntry> entries = file.entries();
    change(entries);
    write_safetensors(folder_ / "edited", entries, file.metadata());
    fs::rename(folder_ / "edited", path() / name);
  }

 private:
  TempDir folder_;
};

SafetensorsEntry& entry_named(std::vector<SafetensorsEntry>& entries, std::string_view name) {
  for (SafetensorsEntry& entry : entries) {
    if (entry.name == name) return entry;
  }
  throw std::runtime_error("no tensor " + std::string(name));
}

std::function<void(std::vector<SafetensorsEntry>&)> rename(std::string from, std::string to) {
  return [=](std::vector<SafetensorsEntry>& entries) { entry_named(entries, from).name = to; };
}

std::function<void(std::vector<SafetensorsEntry>&)> erase(std::string name) {
  return [=](std::vector<SafetensorsEntry>& entries) {
    std::erase_if(entries, [&](const SafetensorsEntry& entry) { return entry.name == name; });
  };
}

std::function<void(std::vector<SafetensorsEntry>&)> swap_extents(std::string name) {
  return [=](std::vector<SafetensorsEntry>& entries) {
    auto& shape = entry_named(entries, name).shape;
    std::reverse(shape.begin(), shape.end());
  };
}

struct Broken {
  const char* name;
  std::function<void(const Copy&)> change;
  std::vector<std::string> parts;  ///< of the message
};

void PrintTo(const Broken& broken, std::ostream* out) { *out << broken.name; }

std::string name_of(const ::testing::TestParamInfo<Broken>& info) { return info.param.name; }

Broken config_case(const char* name, Json changes, std::vector<std::string> parts) {
  parts.push_back("config.json");
  return {name, [changes](const Copy& model) { model.patch("config.json", changes); }, std::move(parts)};
}

class BrokenModel : public ::testing::TestWithParam<Broken> {};

TEST_P(BrokenModel, IsRefused) {
  const Copy model(model_of("llama-gqa"));
  GetParam().change(model);
  expect_failure(3, GetParam().parts, {"score", "--model", model.path(), "--ids", "[1, 2, 3]"});
}

const char* const kWeights = "model.safetensors";
const char* const kQuery = "model.layers.0.self_attn.q_proj.weight";

INSTANTIATE_TEST_SUITE_P(
    Cases, BrokenModel,
    ::testing::Values(
        Broken{"no_folder", [](const Copy& m) { fs::remove_all(m.path()); }, {"copy/config.json"}},
        Broken{"no_config", [](const Copy& m) { m.remove("config.json"); }, {"copy/config.json"}},
        Broken{"empty_config", [](const Copy& m) { m.write("config.json", ""); }, {"config.json"}},
        Broken{"config_no_json", [](const Copy& m) { m.write("config.json", "{\"hidden_size\": }"); }, {"config.json", "line 1"}},
        Broken{"config_no_object", [](const Copy& m) { m.write("config.json", "[1]"); }, {"config.json"}},
        Broken{"config_a_folder", [](const Copy& m) { m.remove("config.json"), fs::create_directory(m / "config.json"); }, {"config.json"}},
        Broken{"config_deep", [](const Copy& m) { m.write("config.json", std::string(100000, '[')); }, {"config.json"}},
        config_case("no_hidden_size", {{"hidden_size", nullptr}}, {"hidden_size"}),
        config_case("text_hidden_size", {{"hidden_size", "64"}}, {"hidden_size", "\"64\""}),
        config_case("negative_hidden_size", {{"hidden_size", -64}}, {"hidden_size", "-64"}),
        config_case("float_layers", {{"num_hidden_layers", 2.5}}, {"num_hidden_layers", "2.5"}),
        config_case("huge_vocab", {{"vocab_size", std::int64_t{1} << 62}}, {"vocab_size"}),
        config_case("huge_heads", {{"num_attention_heads", 1 << 15}, {"num_key_value_heads", 1}, {"head_dim", 1 << 15}}, {"head_dim"}),
        config_case("heads_no_multiple", {{"num_key_value_heads", 3}}, {"3"}),
        config_case("odd_head_dim", {{"head_dim", 7}}, {"head_dim", "7"}),
        config_case("no_architecture", {{"architectures", nullptr}}, {"architectures"}),
        config_case("text_architecture", {{"architectures", "LlamaForCausalLM"}}, {"architectures"}),
        config_case("unsupported_architecture", {{"architectures", {"MambaForCausalLM"}}}, {"MambaForCausalLM"}),
        config_case("unsupported_rope", {{"rope_parameters", {{"rope_type", "yarn"}}}}, {"yarn"}),
        config_case("rope_no_object", {{"rope_parameters", 3}}, {"rope_parameters"}),
        config_case("rope_factor", {{"rope_parameters", {{"factor", "eight"}}}}, {"factor", "eight"}),
        config_case("rope_zero_theta", {{"rope_parameters", {{"rope_theta", 0}}}}, {"theta"}),
        config_case("quantized", {{"quantization_config", {{"bits", 4}}}}, {"quantization_config"}),
        config_case("activation", {{"hidden_act", "relu"}}, {"hidden_act", "relu"}),
        config_case("dtype", {{"dtype", "float4"}}, {"float4"}),
        config_case("dtype_type", {{"dtype", 32}}, {"dtype"}),
        config_case("eps", {{"rms_norm_eps", 0}}, {"rms_norm_eps"}),
        config_case("eos_text", {{"eos_token_id", "</s>"}}, {"eos_token_id"}),
        Broken{"other_sizes", [](const Copy& m) { m.patch("config.json", {{"intermediate_size", 128}}); }, {kWeights, "mlp.gate_proj", "176", "128"}},
        Broken{"more_layers", [](const Copy& m) { m.patch("config.json", {{"num_hidden_layers", 4}}); }, {kWeights, "model.layers.3."}},
        Broken{"fewer_layers", [](const Copy& m) { m.patch("config.json", {{"num_hidden_layers", 2}}); }, {kWeights, "model.layers.2."}},
        Broken{"no_weights", [](const Copy& m) { m.remove(kWeights); }, {"copy", "safetensors"}},
        Broken{"empty_weights", [](const Copy& m) { m.write(kWeights, ""); }, {kWeights}},
        Broken{"weights_no_safetensors", [](const Copy& m) { m.write(kWeights, std::string(4096, 'x')); }, {kWeights}},
        Broken{"truncated", [](const Copy& m) { m.truncate(kWeights, 100); }, {kWeights}},
        Broken{"truncated_header", [](const Copy& m) { fs::resize_file(m / kWeights, 20); }, {kWeights}},
        Broken{"wrong_shape", [](const Copy& m) { m.edit(kWeights, swap_extents("model.layers.0.mlp.down_proj.weight")); }, {kWeights, "mlp.down_proj", "176"}},
        Broken{"missing_tensor", [](const Copy& m) { m.edit(kWeights, erase(kQuery)); }, {kWeights, kQuery}},
        Broken{"extra_tensor", [](const Copy& m) { m.edit(kWeights, rename("lm_head.weight", "lm_tail.weight")); }, {kWeights, "lm_"}},
        Broken{"hostile_name", [](const Copy& m) {
                 m.edit(kWeights, [](std::vector<SafetensorsEntry>& entries) {
                   SafetensorsEntry copy = entries.front();
                   copy.name = "a\n\x1b[31mred";
                   entries.push_back(copy);
                 });
               }, {kWeights, "red"}},
        Broken{"integer_weights", [](const Copy& m) {
                 m.edit(kWeights, [](std::vector<SafetensorsEntry>& entries) { entry_named(entries, kQuery).dtype = "I32"; });
               }, {kWeights, kQuery, "I32"}}),
    name_of);

TEST(BrokenShards, AreRefused) {
  const std::string shard = "model-00003-of-00006.safetensors";
  const std::string index = "model.safetensors.index.json";
  const auto refused = [](const Copy& model, const std::vector<std::string>& parts) {
    expect_failure(3, parts, {"score", "--model", model.path(), "--ids", "[1, 2, 3]"});
    expect_failure(3, parts, {"info", model.path()});
  };
  {
    const Copy model(model_of("qwen2-untied"));
    model.remove(shard);
    refused(model, {shard});
  }
  {
    const Copy model(model_of("qwen2-untied"));
    model.truncate(shard, 1);
    refused(model, {shard});
  }
  {
    const Copy model(model_of("qwen2-untied"));
    model.write(index, "{\"weight_map\": 3}");
    refused(model, {index, "weight_map"});
  }
  {
    const Copy model(model_of("qwen2-untied"));
    model.patch(index, {{"weight_map", {{"model.norm.weight", "../../etc/passwd"}}}});
    refused(model, {index});
  }
}

class BrokenTokenizer : public ::testing::TestWithParam<Broken> {};

TEST_P(BrokenTokenizer, IsRefused) {
  const TempDir folder;
  fs::create_directory(folder / "from");
  fs::copy_file(tales() / "tokenizer.json", folder / "from/tokenizer.json");
  const Copy copy(folder / "from");
  GetParam().change(copy);
  expect_failure(3, GetParam().parts, {"tokenize", "--model", copy.path(), "--text", "abc"});
}

TEST(TokenizerOfAnotherKind, IsNotNeededForIds) {
  const Copy model(model_of("llama-gqa"));
  const TempDir folder;
  write_file(folder / "ids.jsonl", "{\"input_ids\": [1, 2, 3, 4, 5]}\n");
  write_file(folder / "text.jsonl", "{\"text\": \"Once upon a time\"}\n");
  const auto train = [&](const char* rows) {
    return std::vector<std::string>{"train",          "--model",      model.path(), "--data", folder / rows,
                                    "--adapter-path", folder / "out", "--iters",    "1",      "--json"};
  };
  const std::vector<std::string> generate = {"generate", "--model",      model.path(), "--ids",
                                             "[1, 2]",   "--max-tokens", "3"};
  const std::vector<std::string> score = {"score", "--model", model.path(), "--ids", "[1, 2, 3]"};
  const std::string generated = expect_success(generate);
  const std::string scored = expect_success(score);
  model.write("tokenizer.json", R"({"model": {"type": "WordLevel"}})");
  for (const auto& [arguments, printed] : {std::pair{generate, generated}, std::pair{score, scored}}) {
    const RunResult result = wick(arguments);
    EXPECT_EQ(result.code, 0);
    EXPECT_EQ(result.out, printed);
    EXPECT_NE(result.err.find("ids without text: "), std::string::npos) << result.err;
    EXPECT_NE(result.err.find("WordLevel"), std::string::npos) << result.err;
  }
  expect_json(train("ids.jsonl"));
  expect_failure(3, {"text.jsonl:1", "the row is text", "tokenizer.json", "WordLevel"}, train("text.jsonl"));
}

const char* const kTokenizer = "tokenizer.json";

INSTANTIATE_TEST_SUITE_P(
    Cases, BrokenTokenizer,
    ::testing::Values(Broken{"missing", [](const Copy& t) { t.remove(kTokenizer); }, {kTokenizer}},
                      Broken{"empty", [](const Copy& t) { t.write(kTokenizer, ""); }, {kTokenizer}},
                      Broken{"no_json", [](const Copy& t) { t.truncate(kTokenizer, 10); }, {kTokenizer}},
                      Broken{"no_object", [](const Copy& t) { t.write(kTokenizer, "[]"); }, {kTokenizer}},
                      Broken{"no_model",
                             [](const Copy& t) {
                               t.patch(kTokenizer, {{"model", nullptr}});
                             },
                             {kTokenizer, "model"}},
                      Broken{"word_level",
                             [](const Copy& t) {
                               t.patch(kTokenizer, {{"model", {{"type", "WordLevel"}}}});
                             },
                             {kTokenizer, "WordLevel"}},
                      Broken{"merges",
                             [](const Copy& t) {
                               t.patch(kTokenizer, {{"model", {{"merges", {"a"}}}}});
                             },
                             {kTokenizer, "merges"}},
                      Broken{"vocab",
                             [](const Copy& t) {
                               t.patch(kTokenizer, {{"model", {{"vocab", 1}}}});
                             },
                             {kTokenizer, "vocab"}},
                      Broken{"pre_tokenizer",
                             [](const Copy& t) {
                               t.patch(kTokenizer, {{"pre_tokenizer", {{"type", "UnicodeScripts"}}}});
                             },
                             {kTokenizer, "UnicodeScripts"}}),
    name_of);

class BrokenAdapter : public ::testing::TestWithParam<Broken> {};

TEST_P(BrokenAdapter, IsRefused) {
  const Copy adapter(golden("llama-gqa") / "qv-r8" / "adapter-start");
  GetParam().change(adapter);
  const TempDir folder;
  const std::string model = model_of("llama-gqa");
  expect_failure(3, GetParam().parts,
                 {"score", "--model", model, "--adapter-path", adapter.path(), "--ids", "[1, 2, 3]"});
  expect_failure(3, GetParam().parts,
                 {"fuse", "--model", model, "--adapter-path", adapter.path(), "--output", folder / "merged"});
  EXPECT_FALSE(fs::exists(folder / "merged"));
}

const char* const kAdapter = "adapter_model.safetensors";
const char* const kAdapterConfig = "adapter_config.json";
const char* const kFactor = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight";

Broken adapter_case(const char* name, Json changes, std::vector<std::string> parts) {
  parts.push_back("adapter_");
  return {name, [changes](const Copy& adapter) { adapter.patch(kAdapterConfig, changes); }, std::move(parts)};
}

INSTANTIATE_TEST_SUITE_P(
    Cases, BrokenAdapter,
    ::testing::Values(
        Broken{"no_folder", [](const Copy& a) { fs::remove_all(a.path()); }, {kAdapterConfig}},
        Broken{"no_config", [](const Copy& a) { a.remove(kAdapterConfig); }, {kAdapterConfig}},
        Broken{"config_no_json", [](const Copy& a) { a.truncate(kAdapterConfig, 5); }, {kAdapterConfig}},
        adapter_case("dora", {{"use_dora", true}}, {"use_dora"}),
        adapter_case("modules_to_save", {{"modules_to_save", {"lm_head"}}}, {"modules_to_save"}),
        adapter_case("bias", {{"bias", "all"}}, {"bias"}), adapter_case("no_lora", {{"peft_type", "IA3"}}, {"IA3"}),
        adapter_case("rank_zero", {{"r", 0}}, {"\"r\""}), adapter_case("rank_text", {{"r", "eight"}}, {"eight"}),
        adapter_case("other_rank", {{"r", 4}}, {"lora_", "8", "4"}),
        adapter_case("other_targets", {{"target_modules", {"q_proj"}}}, {"unexpected", "v_proj"}),
        adapter_case("more_targets", {{"target_modules", {"q_proj", "v_proj", "k_proj"}}}, {"missing", "k_proj"}),
        adapter_case("no_such_target", {{"target_modules", {"query"}}}, {"query"}),
        Broken{"no_weights", [](const Copy& a) { a.remove(kAdapter); }, {kAdapter}},
        Broken{"truncated", [](const Copy& a) { a.truncate(kAdapter, 1); }, {kAdapter}},
        Broken{"missing_key", [](const Copy& a) { a.edit(kAdapter, erase(kFactor)); }, {kAdapter, "missing", kFactor}},
        Broken{"unexpected_key",
               [](const Copy& a) { a.edit(kAdapter, rename(kFactor, "surprise")); },
               {kAdapter, "unexpected", "surprise"}},
        Broken{"wrong_shape",
               [](const Copy& a) { a.edit(kAdapter, swap_extents(kFactor)); },
               {kAdapter, kFactor, "[64, 8]", "[8, 64]"}},
        Broken{"other_model",
               [](const Copy& a) {
                 fs::remove_all(a.path());
                 fs::copy(golden("tales") / "qv-r8" / "adapter-start", a.path());
               },
               {kAdapter, "model.layers."}}),
    name_of);

struct BrokenRows {
  const char* name;
  std::string rows;
  std::vector<std::string> parts;
  const char* model = "llama-gqa";
};

void PrintTo(const BrokenRows& rows, std::ostream* out) { *out << rows.name; }

class BrokenData : public ::testing::TestWithParam<BrokenRows> {};

TEST_P(BrokenData, IsRefused) {
  const BrokenRows& broken = GetParam();
  const TempDir folder;
  write_file(folder / "rows.jsonl", broken.rows);
  std::vector<std::string> parts = broken.parts;
  parts.push_back("rows.jsonl");
  expect_failure(3, parts,
                 {"train", "--model", model_of(broken.model), "--data", folder / "rows.jsonl", "--adapter-path",
                  folder / "out", "--iters", "1"});
  EXPECT_FALSE(fs::exists(folder / "out"));
}

const std::string kRow = "{\"input_ids\": [1, 2, 3]}\n";

INSTANTIATE_TEST_SUITE_P(
    Cases, BrokenData,
    ::testing::Values(
        BrokenRows{"empty", "", {"no rows"}}, BrokenRows{"no_json", kRow + "{\"input_ids\": [1, 2\n", {":2"}},
        BrokenRows{"no_object", kRow + "[1, 2]\n", {":2"}},
        BrokenRows{"other_keys", "{\"ids\": [1, 2]}\n", {":1", "ids", "input_ids"}},
        BrokenRows{"id_too_large", kRow + kRow + "{\"input_ids\": [1, 512]}\n", {":3", "input_ids[1]", "512"}},
        BrokenRows{"id_negative", "{\"input_ids\": [-1, 5]}\n", {":1", "input_ids[0]", "-1"}},
        BrokenRows{"id_text", "{\"input_ids\": [1, \"2\"]}\n", {":1", "input_ids"}},
        BrokenRows{"ids_no_list", "{\"input_ids\": 7}\n", {":1", "input_ids"}},
        BrokenRows{"labels_short", "{\"input_ids\": [1, 2, 3], \"labels\": [1, 2]}\n", {":1", "labels", "2", "3"}},
        BrokenRows{"label_too_large", "{\"input_ids\": [1, 2], \"labels\": [1, 900]}\n", {":1", "labels[1]", "900"}},
        BrokenRows{"nothing_trained", "{\"input_ids\": [1, 2], \"labels\": [-100, -100]}\n", {"token to train on"}},
        BrokenRows{"mixed", kRow + "{\"text\": \"a\"}\n", {":2", "text", "input_ids"}},
        BrokenRows{"both", "{\"input_ids\": [1, 2], \"text\": \"a\"}\n", {":1", "several formats"}},
        BrokenRows{"no_tokenizer", "{\"text\": \"Once upon a time\"}\n", {":1", "tokenizer"}},
        BrokenRows{"text_no_text", "{\"text\": 5}\n", {":1", "text"}, "tales"},
        BrokenRows{"not_utf8", "{\"text\": \"\xff\xfe\"}\n", {":1"}, "tales"}),
    [](const auto& info) { return std::string(info.param.name); });

TEST(BrokenFolders, AreNamed) {
  const TempDir folder;
  const std::string model = model_of("llama-gqa");
  const std::string rows = golden("llama-gqa") / "rows.jsonl";
  const std::string out = folder / "out";
  const std::string below_a_file = folder / "file" / "out";
  write_file(folder / "file", "x");
  fs::create_directory(folder / "empty");
  const auto train = [&](const std::string& data, const std::string& adapter) {
    return std::vector<std::string>{"train",          "--model", model,     "--data", data,
                                    "--adapter-path", adapter,   "--iters", "1"};
  };
  expect_failure(3, {"missing.jsonl"}, train(folder / "missing.jsonl", out));
  expect_failure(3, {"empty", "train.jsonl"}, train(folder / "empty", out));
  expect_failure(3, {"ids.json"}, {"score", "--model", model, "--ids-file", folder / "ids.json"});
  for (const char* lists : {"[1, 2]", "[[1, 2], [\"a\"]]", "{}", "[[1, 600]]", "[[]]", "[[1"}) {
    SCOPED_TRACE(lists);
    write_file(folder / "ids.json", lists);
    expect_failure(3, {"ids.json"}, {"score", "--model", model, "--ids-file", folder / "ids.json"});
  }
  expect_failure(3, {"nothing"}, {"info", folder / "nothing"});
  expect_failure(3, {"config.json"}, {"info", folder / "empty"});
  expect_failure(3, {"file"}, {"info", folder / "file"});

  // Where nothing can be written. (Tests may run as root, whom no permission stops.)
  const fs::path adapter = golden("llama-gqa") / "qv-r8" / "adapter-end";
  expect_failure(3, {below_a_file}, {"score", "--model", model, "--ids", "[1]", "--json", "--logits", below_a_file});
  expect_failure(3, {below_a_file}, {"fuse", "--model", model, "--adapter-path", adapter, "--output", below_a_file});
  for (const std::string& place : {below_a_file, std::string(folder / "file")}) {
    const RunResult result = wick(train(rows, place));
    EXPECT_EQ(result.code, 3) << result.err;
    EXPECT_EQ(result.out, "");
    EXPECT_NE(result.err.find("error: " + place), std::string::npos) << result.err;
  }
  EXPECT_EQ(list(folder.path()), "empty file ids.json");
}

TEST(Streams, FullDiskBehindStdoutIsAnError) {
  if (!fs::exists("/dev/full")) GTEST_SKIP() << "no /dev/full";
  for (const std::vector<std::string>& arguments : std::vector<std::vector<std::string>>{
           {"devices"},
           {"info", tales()},
           {"tokenize", "--model", tales(), "--text", "a"},
           {"score", "--model", model_of("llama-gqa"), "--ids", "[1, 2]", "--json"}}) {
    expect_failure(3, {"stdout"}, arguments, {.output_path = "/dev/full"});
  }
}

TEST(Streams, ClosedStdoutEndsQuietly) {
  for (const std::vector<std::string>& arguments : std::vector<std::vector<std::string>>{
           {"generate", "--model", model_of("llama-gqa"), "--ids", "[1, 2]", "--max-tokens", "4"},
           {"generate", "--model", tales(), "--prompt", "Once", "--max-tokens", "200"},
           {"score", "--model", tales(), "--text", "Once upon a time"},
           {"info", tales(), "--tensors"}}) {
    const RunResult result = wick(arguments, {.closed_output = true});
    EXPECT_EQ(result.code, 128 + SIGPIPE) << result.err;
    EXPECT_EQ(result.err, "");
  }
}

}  // namespace
}  // namespace wick::test
