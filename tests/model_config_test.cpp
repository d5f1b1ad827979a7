// config.json and the weights beside it: what is read, what is refused, and how the refusal names file and key.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <map>

#include "core/fail.h"
#include "io/json.h"
#include "io_test_util.h"
#include "wick/model.h"
#include "wick/safetensors.h"

namespace wick {
namespace {

namespace fs = std::filesystem;

Json valid(const std::string& architecture = "LlamaForCausalLM") {
  return {{"architectures", {architecture}},
          {"vocab_size", 11},
          {"hidden_size", 8},
          {"intermediate_size", 12},
          {"num_hidden_layers", 2},
          {"num_attention_heads", 4},
          {"num_key_value_heads", 2},
          {"max_position_embeddings", 64},
          {"rms_norm_eps", 1e-5},
          {"hidden_act", "silu"},
          {"tie_word_embeddings", false},
          {"dtype", "float32"},
          {"eos_token_id", 2}};
}

class ModelFolder : public ::testing::Test {
 protected:
  void write(const Json& config, const char* name = "config.json") const {
    std::ofstream(folder_ / name) << config.dump();
  }
  ModelConfig read(const Json& config) const {
    write(config);
    return ModelConfig::from_folder(folder_);
  }
  // Runs `f`, which must throw an Error of this code whose message holds every word.
  static void expect_error(const std::function<void()>& f, ErrorCode code, const std::vector<std::string>& words) {
    try {
      f();
      ADD_FAILURE() << "no error";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), code) << error.what();
      for (const std::string& word : words) {
        EXPECT_NE(std::string(error.what()).find(word), std::string::npos)
            << '"' << word << "\" is not in: " << error.what();
      }
    }
  }

  test::TempDir temporary_;
  const fs::path folder_ = temporary_.path();
};

TEST_F(ModelFolder, TheValidConfig) {
  const ModelConfig c = read(valid());
  EXPECT_EQ(c.architecture, Architecture::llama);
  EXPECT_EQ(c.head_dim, 2);
  EXPECT_EQ(c.rope.theta, 10000.0);
  EXPECT_EQ(c.eos_token_ids, std::vector<std::int32_t>{2});
  EXPECT_EQ(c.sliding_window, (std::vector<std::int64_t>{0, 0}));
  EXPECT_EQ(c.dtype, DType::f32);
}

// A valid config with some keys set (null: removed) and what is said of it.
struct Refusal {
  const char* what;
  const char* architecture;
  Json edit;
  ErrorCode code;
  std::string key;  // is in the message, beside the file's name
};

std::vector<Refusal> refusals() {
  constexpr auto format = ErrorCode::format;
  constexpr auto unsupported = ErrorCode::unsupported;
  const char* llama = "LlamaForCausalLM";
  const char* qwen2 = "Qwen2ForCausalLM";
  const char* qwen3 = "Qwen3ForCausalLM";
  const char* mistral = "MistralForCausalLM";
  const Json windowed = {{"use_sliding_window", true}, {"sliding_window", 8}};
  const auto with = [](Json object, const char* key, Json value) {
    object[key] = std::move(value);
    return object;
  };
  const Json llama3 = {{"rope_type", "llama3"}, {"factor", 8.0}, {"low_freq_factor", 1.0}, {"high_freq_factor", 4.0}};
  std::vector<Refusal> all = {
      {"another architecture", llama, {{"architectures", {"GemmaForCausalLM"}}}, unsupported, "GemmaForCausalLM"},
      {"no architecture", llama, {{"architectures", Json::array()}}, unsupported, "architecture"},
      {"architectures as a string", llama, {{"architectures", "LlamaForCausalLM"}}, format, "architectures"},
      {"gelu", llama, {{"hidden_act", "gelu"}}, unsupported, "\"hidden_act\" is \"gelu\""},
      {"quantized", llama, {{"quantization_config", {{"bits", 4}}}}, unsupported, "quantization_config"},
      {"layers of several sizes",
       llama,
       {{"per_layer_config", {{"1", {{"head_dim", 4}}}}}},
       unsupported,
       "per_layer_config"},
      {"attention dropout", llama, {{"attention_dropout", 0.1}}, unsupported, "\"attention_dropout\" is 0.1"},
      {"part of a head rotated", llama, {{"partial_rotary_factor", 0.5}}, unsupported, "partial_rotary_factor"},
      {"not causal", llama, {{"is_causal", false}}, unsupported, "is_causal"},
      {"mistral with biases", mistral, {{"attention_bias", true}}, unsupported, "attention_bias"},
      {"qwen3 with mlp biases", qwen3, {{"mlp_bias", true}}, unsupported, "mlp_bias"},
      {"llama with a window", llama, {{"sliding_window", 8}}, unsupported, "sliding_window"},
      {"yarn",
       llama,
       {{"rope_scaling", {{"rope_type", "yarn"}, {"factor", 2.0}}}},
       unsupported,
       "rope_scaling: rope type \"yarn\""},
      {"dynamic",
       llama,
       {{"rope_scaling", {{"type", "dynamic"}, {"factor", 2.0}}}},
       unsupported,
       "rope type \"dynamic\""},
      {"longrope",
       qwen2,
       {{"rope_parameters", {{"rope_type", "longrope"}}}},
       unsupported,
       "rope_parameters: rope type \"longrope\""},
      {"part of a head rotated, inside",
       llama,
       {{"rope_parameters", {{"partial_rotary_factor", 0.5}}}},
       unsupported,
       "partial_rotary_factor"},
      {"RoPE by layer type",
       qwen3,
       {{"rope_parameters", {{"full_attention", {{"rope_theta", 1e6}}}}}},
       unsupported,
       "full_attention"},
      {"RoPE as a string", llama, {{"rope_scaling", "linear"}}, format, "rope_scaling"},
      {"linear without a factor", llama, {{"rope_scaling", {{"type", "linear"}}}}, format, "factor"},
      {"linear with factor 0", llama, {{"rope_scaling", {{"type", "linear"}, {"factor", 0}}}}, format, "factor"},
      {"theta 0", llama, {{"rope_theta", 0}}, format, "rope_theta"},
      {"theta negative", llama, {{"rope_theta", -1.5}}, format, "rope_theta"},
      {"theta 0, inside",
       llama,
       {{"rope_parameters", {{"rope_theta", 0.0}}}},
       format,
       "rope_parameters: \"rope_theta\""},
      {"llama3 without low_freq_factor",
       llama,
       {{"rope_scaling", {{"rope_type", "llama3"}, {"factor", 8.0}}}},
       format,
       "low_freq_factor"},
      {"llama3 with crossed factors",
       llama,
       {{"rope_scaling", with(llama3, "low_freq_factor", 4.0)}},
       format,
       "low_freq_factor"},
      {"llama3 of length 0",
       llama,
       {{"rope_scaling", with(llama3, "original_max_position_embeddings", 0)}},
       format,
       "original_max_position_embeddings"},
      {"heads no multiple", llama, {{"num_key_value_heads", 3}}, format, "num_key_value_heads"},
      {"hidden size no multiple", llama, {{"hidden_size", 10}}, format, "hidden_size"},
      {"odd head_dim", llama, {{"head_dim", 3}}, format, "head_dim"},
      {"huge heads", llama, {{"num_attention_heads", 1048576}, {"head_dim", 1048576}}, format, "head_dim"},
      {"eps 0", llama, {{"rms_norm_eps", 0}}, format, "rms_norm_eps"},
      {"eps negative", llama, {{"rms_norm_eps", -1e-6}}, format, "rms_norm_eps"},
      {"eps as a string", llama, {{"rms_norm_eps", "1e-6"}}, format, "rms_norm_eps"},
      {"tied as a number", llama, {{"tie_word_embeddings", 1}}, format, "tie_word_embeddings"},
      {"eos as a string", llama, {{"eos_token_id", "</s>"}}, format, "eos_token_id"},
      {"eos as a float", llama, {{"eos_token_id", 2.0}}, format, "eos_token_id"},
      {"eos negative", llama, {{"eos_token_id", -1}}, format, "eos_token_id"},
      {"eos in a list of lists", llama, {{"eos_token_id", {{2}}}}, format, "eos_token_id"},
      {"eos larger than 31 bits", llama, {{"eos_token_id", {2, 4294967296}}}, format, "eos_token_id"},
      {"float8", llama, {{"dtype", "float8_e4m3fn"}}, unsupported, "\"dtype\" is \"float8_e4m3fn\""},
      {"integers, old spelling",
       llama,
       {{"dtype", nullptr}, {"torch_dtype", "int32"}},
       unsupported,
       "\"torch_dtype\" is \"int32\""},
      {"layer_types too short", qwen2, with(windowed, "layer_types", {"full_attention"}), format, "layer_types"},
      {"layer_types too long, no window",
       qwen2,
       {{"layer_types", {"full_attention", "full_attention", "full_attention"}}},
       format,
       "layer_types"},
      {"unknown layer type", qwen2, with(windowed, "layer_types", {"full_attention", "chunked_attention"}), unsupported,
       "chunked_attention"},
      {"unknown layer type, no window",
       llama,
       {{"layer_types", {"full_attention", "linear_attention"}}},
       unsupported,
       "linear_attention"},
      {"sliding layers without a window",
       qwen3,
       {{"layer_types", {"full_attention", "sliding_attention"}}},
       unsupported,
       "layer_types"},
      {"full layers in mistral with a window",
       mistral,
       {{"sliding_window", 8}, {"layer_types", {"sliding_attention", "full_attention"}}},
       unsupported,
       "layer_types"},
      {"window 0", mistral, {{"sliding_window", 0}}, format, "sliding_window"},
      {"window negative", qwen2, with(windowed, "sliding_window", -4), format, "sliding_window"},
      {"window as a string", mistral, {{"sliding_window", "8"}}, format, "sliding_window"},
  };
  for (const char* key :
       {"vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"}) {
    for (const Json& value : {Json(), Json("8"), Json(8.0), Json(0), Json(-8), Json(std::int64_t{1} << 40),
                              Json(18446744073709551615U), Json::array({8})}) {
      all.push_back({"a size", llama, {{key, value}}, format, key});
    }
  }
  return all;
}

TEST_F(ModelFolder, RefusesByName) {
  for (const Refusal& refusal : refusals()) {
    SCOPED_TRACE(std::string(refusal.what) + ": " + refusal.edit.dump());
    Json config = valid(refusal.architecture);
    for (const auto& [key, value] : refusal.edit.items()) {
      config[key] = value;
      if (value.is_null()) config.erase(key);
    }
    expect_error([&] { read(config); }, refusal.code, {(folder_ / "config.json").string(), refusal.key});
  }
}

TEST_F(ModelFolder, RefusesWhatIsNoConfig) {
  for (const char* text : {"[]", "3", "\"LlamaForCausalLM\"", "{}", "{", ""}) {
    std::ofstream(folder_ / "config.json") << text;
    expect_error([&] { ModelConfig::from_folder(folder_); }, ErrorCode::format, {"config.json"});
  }
  fs::remove(folder_ / "config.json");
  expect_error([&] { ModelConfig::from_folder(folder_); }, ErrorCode::io, {"config.json"});
}

TEST_F(ModelFolder, EosForms) {
  Json config = valid();
  config["eos_token_id"] = {2, 5};
  EXPECT_EQ(read(config).eos_token_ids, (std::vector<std::int32_t>{2, 5}));
  config["eos_token_id"] = nullptr;
  EXPECT_EQ(read(config).eos_token_ids, std::vector<std::int32_t>{});
  config.erase("eos_token_id");
  EXPECT_EQ(read(config).eos_token_ids, std::vector<std::int32_t>{});
  write({{"eos_token_id", {7}}}, "generation_config.json");  // generation's wins
  EXPECT_EQ(read(valid()).eos_token_ids, std::vector<std::int32_t>{7});
  write({{"eos_token_id", nullptr}}, "generation_config.json");
  EXPECT_EQ(read(valid()).eos_token_ids, std::vector<std::int32_t>{2});
  write({{"eos_token_id", "x"}}, "generation_config.json");
  expect_error([&] { read(valid()); }, ErrorCode::format, {"generation_config.json", "eos_token_id"});
  write(Json::array(), "generation_config.json");
  expect_error([&] { read(valid()); }, ErrorCode::format, {"generation_config.json"});
}

TEST_F(ModelFolder, Spellings) {
  Json config = valid();
  config["rope_theta"] = 5e5;
  EXPECT_EQ(read(config).rope.theta, 5e5);
  config["rope_parameters"] = {{"rope_theta", 1e6}, {"rope_type", "default"}};
  EXPECT_EQ(read(config).rope.theta, 1e6);  // inside wins
  config["rope_scaling"] = Json::object();  // empty: as if it were not there
  EXPECT_EQ(read(config).rope.theta, 1e6);
  config["rope_scaling"] = {{"type", "linear"}, {"factor", 4}};
  EXPECT_EQ(read(config).rope.kind, RopeConfig::Kind::linear);
  EXPECT_EQ(read(config).rope.theta, 5e5);  // the old key wins whole over the new one
  EXPECT_EQ(read(config).rope.factor, 4);
  config["rope_scaling"] = {{"rope_type", "llama3"}, {"factor", 8}, {"low_freq_factor", 1}, {"high_freq_factor", 4}};
  EXPECT_EQ(read(config).rope.original_max_position_embeddings, 64);  // max_position_embeddings
  config["original_max_position_embeddings"] = 32;
  EXPECT_EQ(read(config).rope.original_max_position_embeddings, 32);
  config.erase("dtype");
  config["torch_dtype"] = "bfloat16";
  EXPECT_EQ(read(config).dtype, DType::bf16);
  config["hidden_act"] = "swish";
  config["pretraining_tp"] = 2;  // splits products, changes no result
  config["attention_dropout"] = nullptr;
  EXPECT_NO_THROW(read(config));
}

// A missing key stands for the default of the architecture's class, null for none.
TEST_F(ModelFolder, DefaultsOfTheClasses) {
  using Windows = std::vector<std::int64_t>;
  Json mistral = valid("MistralForCausalLM");
  EXPECT_EQ(read(mistral).sliding_window, (Windows{4096, 4096}));
  mistral["sliding_window"] = nullptr;
  EXPECT_EQ(read(mistral).sliding_window, (Windows{0, 0}));
  mistral["num_attention_heads"] = 16;
  mistral["head_dim"] = 4;
  mistral.erase("num_key_value_heads");
  mistral.erase("max_position_embeddings");
  EXPECT_EQ(read(mistral).num_key_value_heads, 8);
  EXPECT_EQ(read(mistral).max_position_embeddings, 131072);
  mistral["num_key_value_heads"] = nullptr;
  EXPECT_EQ(read(mistral).num_key_value_heads, 16);

  Json qwen = valid("Qwen2ForCausalLM");
  qwen["sliding_window"] = 8;
  EXPECT_EQ(read(qwen).sliding_window, (Windows{0, 0}));  // unless used
  qwen["use_sliding_window"] = true;
  EXPECT_EQ(read(qwen).sliding_window, (Windows{0, 0}));  // from layer 28 on
  qwen["max_window_layers"] = 1;
  EXPECT_EQ(read(qwen).sliding_window, (Windows{0, 8}));
  qwen["layer_types"] = {"sliding_attention", "full_attention"};
  EXPECT_EQ(read(qwen).sliding_window, (Windows{8, 0}));  // layer_types win
  qwen.erase("sliding_window");
  EXPECT_EQ(read(qwen).sliding_window, (Windows{4096, 0}));

  Json qwen3 = valid("Qwen3ForCausalLM");
  qwen3["hidden_size"] = 10;  // no multiple of the heads: head_dim is the class's
  EXPECT_EQ(read(qwen3).head_dim, 128);
  Json llama = valid();
  llama["head_dim"] = nullptr;
  EXPECT_EQ(read(llama).head_dim, 2);
  llama["hidden_size"] = 10;
  expect_error([&] { read(llama); }, ErrorCode::format, {"hidden_size"});
  llama["head_dim"] = 6;
  EXPECT_EQ(read(llama).head_dim, 6);
}

// The largest sizes that pass keep their count of parameters within 63 bits.
TEST_F(ModelFolder, LargestSizes) {
  Json config = valid();
  config["vocab_size"] = 1 << 24;
  config["num_hidden_layers"] = 1 << 14;
  for (const char* key : {"hidden_size", "intermediate_size"}) config[key] = 1 << 20;
  config["num_attention_heads"] = 1 << 10;
  config["num_key_value_heads"] = 1 << 10;
  EXPECT_GT(read(config).parameter_count(), std::int64_t{1} << 56);
}

class Weights : public ModelFolder {
 protected:
  using Tensors = std::map<std::string, Tensor>;

  static Tensors tensors(const ModelConfig& c) {
    Tensors all;
    const auto put = [&](const std::string& name, const Shape& shape) {
      all[name] = Tensor::full(shape, 0.125, DType::f32);
    };
    put("model.embed_tokens.weight", {c.vocab_size, c.hidden_size});
    put("model.norm.weight", {c.hidden_size});
    for (const ModuleInfo& m : linear_modules(c)) {
      if (m.name != "lm_head" || !c.tie_word_embeddings) put(m.name + ".weight", {m.out_features, m.in_features});
    }
    for (std::int64_t i = 0; i < c.num_hidden_layers; ++i) {
      for (const char* norm : {"input_layernorm", "post_attention_layernorm"}) {
        put(fmt::format("model.layers.{}.{}.weight", i, norm), {c.hidden_size});
      }
    }
    return all;
  }
  void write_tensors(const Tensors& all) const {
    std::vector<SafetensorsEntry> entries;
    for (const auto& [name, tensor] : all) entries.push_back(make_entry(name, tensor));
    write_safetensors(folder_ / "model.safetensors", entries);
  }
  void expect_refused(const Tensors& all, ErrorCode code, std::vector<std::string> words) const {
    write_tensors(all);
    words.push_back("model.safetensors");
    expect_error([&] { Decoder::load(folder_); }, code, words);
  }
};

TEST_F(Weights, MissingExtraAndMisshapen) {
  const Tensors good = tensors(read(valid()));
  write_tensors(good);
  EXPECT_NO_THROW(Decoder::load(folder_));
  for (const auto& [name, tensor] : good) {
    Tensors bad = good;
    bad.erase(name);
    expect_refused(bad, ErrorCode::format, {name, "missing"});
    bad = good;
    Shape shape = tensor.shape();
    shape[0] += 1;
    bad[name] = Tensor::full(shape, 0.125, DType::f32);
    expect_refused(bad, ErrorCode::format, {name, "shape"});
    bad[name] = reshape(tensor, {1, tensor.numel()});
    if (tensor.rank() == 1) expect_refused(bad, ErrorCode::format, {name, "shape"});
    bad[name] = Tensor::full(tensor.shape(), 1, DType::i32);
    expect_refused(bad, ErrorCode::unsupported, {name, "I32"});
  }
  for (const char* extra : {"model.layers.2.mlp.up_proj.weight", "model.layers.0.self_attn.q_proj.bias", "lm_head.bias",
                            "model.layers.0.self_attn.q_norm.weight"}) {
    Tensors bad = good;
    bad[extra] = Tensor::full({8}, 1, DType::f32);
    expect_refused(bad, ErrorCode::format, {extra});
  }
  Tensors old = good;  // what old versions wrote beside the weights
  old["model.layers.0.self_attn.rotary_emb.inv_freq"] = Tensor::full({1}, 1, DType::f32);
  write_tensors(old);
  EXPECT_NO_THROW(Decoder::load(folder_));
}

TEST_F(Weights, ATiedHeadMayBeThereIfItIsTheSame) {
  Json config = valid();
  config["tie_word_embeddings"] = true;
  Tensors all = tensors(read(config));
  ASSERT_FALSE(all.contains("lm_head.weight"));
  write_tensors(all);
  EXPECT_NO_THROW(Decoder::load(folder_));
  all["lm_head.weight"] = all["model.embed_tokens.weight"].clone();
  write_tensors(all);
  EXPECT_NO_THROW(Decoder::load(folder_));
  all["lm_head.weight"].data<float>()[5] = 0.25F;
  expect_refused(all, ErrorCode::format, {"lm_head.weight", "tie_word_embeddings"});
}

// Sizes that the file does not back are refused before anything of that size is made.
TEST_F(Weights, HugeSizesAllocateNothing) {
  const Tensors good = tensors(read(valid()));
  write_tensors(good);
  for (const auto& [key, value, word] : {std::tuple{"num_hidden_layers", 1 << 14, "model.layers.2."},
                                         {"vocab_size", 1 << 24, "model.embed_tokens.weight"},
                                         {"hidden_size", 1 << 20, "model.embed_tokens.weight"},
                                         {"intermediate_size", 1 << 20, "mlp.gate_proj.weight"},
                                         {"max_position_embeddings", 2147483647, ""}}) {
    Json config = valid();
    config[key] = value;
    write(config);
    if (*word == '\0') {
      EXPECT_NO_THROW(Decoder::load(folder_));
    } else {
      expect_error([&] { Decoder::load(folder_); }, ErrorCode::format, {word});
    }
  }
}

}  // namespace
}  // namespace wick
