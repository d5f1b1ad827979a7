// What a sentence-transformers folder may have around its transformer, against the vectors of that library.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "embedding_test_util.h"
#include "expect_error.h"
#include "io/json.h"
#include "io_test_util.h"
#include "wick/embedding.h"

namespace wick::test {
namespace {

namespace fs = std::filesystem;

const fs::path kData = fs::path(WICK_TEST_DATA);

class EmbeddingModules : public testing::Test {
 protected:
  EmbeddingModules() { make(); }
  void make() const {
    fs::remove_all(folder_);
    fs::copy(kData / "encoder", folder_, fs::copy_options::recursive);
    fs::copy_file(kData / "tokenizer" / "bert.json", folder_ / "tokenizer.json");
  }
  void edit(const std::string& file, const std::function<void(Json&)>& change) const {
    edit_json(folder_ / file, change);
  }
  void put(const std::string& file, const Json& json) const {
    fs::create_directories((folder_ / file).parent_path());
    write_file(folder_ / file, json.dump());
  }
  void expect_load_error(ErrorCode code, std::string_view part) const {
    expect_error(code, part, [&] { (void)EmbeddingModel::load(folder_); });
  }

  TempDir dir_;
  fs::path folder_ = dir_ / "model";
};

TEST_F(EmbeddingModules, GiveTheVectorsOfSentenceTransformers) {
  const Json expected = read_json_file(kData / "encoder" / "modules.expected.json");
  const auto texts = expected["texts"].get<std::vector<std::string>>();
  for (const Json& each : expected["cases"]) {
    SCOPED_TRACE(each["files"].dump());
    make();
    for (const auto& [file, contents] : each["files"].items()) put(file, contents);
    if (each.contains("keeps_case")) edit("tokenizer.json", [](Json& j) { j["normalizer"]["lowercase"] = false; });
    const EmbeddingModel model = EmbeddingModel::load(folder_);
    EXPECT_EQ(model.dimension(), std::ssize(each["vectors"][0]));
    std::vector<std::string> inputs;
    for (const std::string& text : texts) {
      inputs.push_back(each.contains("prompt") ? model.with_prompt(model.prompt(each["prompt"]), text) : text);
    }
    expect_rows_near(model.embed(inputs), each["vectors"], 4e-6);
  }
}

TEST_F(EmbeddingModules, TheTransformerMayHaveAFolderOfItsOwn) {
  const Json expected = read_json_file(folder_ / "expected.json");
  fs::create_directory(folder_ / "0_Transformer");
  for (const char* file : {"config.json", "model.safetensors", "sentence_bert_config.json", "tokenizer.json"}) {
    fs::rename(folder_ / file, folder_ / "0_Transformer" / file);
  }
  fs::rename(folder_ / "0_Transformer" / "sentence_bert_config.json",
             folder_ / "0_Transformer" / "sentence_roberta_config.json");  // an older name
  edit("modules.json", [](Json& j) { j[0]["path"] = "0_Transformer"; });
  const EmbeddingModel model = EmbeddingModel::load(folder_);
  EXPECT_EQ(model.max_tokens(), 40);
  expect_rows_near(model.embed(expected["texts"].get<std::vector<std::string>>()), expected["cases"][0]["vectors"],
                   2e-6);
}

TEST_F(EmbeddingModules, PromptsByName) {
  put("config_sentence_transformers.json",
      {{"prompts", {{"query", "query: "}, {"document", nullptr}}}, {"default_prompt_name", nullptr}});
  const EmbeddingModel model = EmbeddingModel::load(folder_);
  EXPECT_EQ(model.prompt("query"), "query: ");
  EXPECT_EQ(model.prompt("document"), "");
  EXPECT_FALSE(model.default_prompt());
  expect_refused("no prompt is called \"passage\"; this model has \"document\", \"query\"",
                 [&] { (void)model.prompt("passage"); });
  fs::remove(folder_ / "config_sentence_transformers.json");
  const EmbeddingModel without = EmbeddingModel::load(folder_);
  expect_refused("this model has none", [&] { (void)without.prompt("query"); });
  put("config_sentence_transformers.json", {{"prompts", {{"query", ""}}}, {"default_prompt_name", "passage"}});
  expect_load_error(ErrorCode::format, "\"default_prompt_name\" is \"passage\"");
}

TEST_F(EmbeddingModules, APromptThatIsNotPooledIsRefusedWhenItIsUsed) {
  edit("1_Pooling/config.json", [](Json& j) { j["include_prompt"] = false; });
  const EmbeddingModel model = EmbeddingModel::load(folder_);
  EXPECT_EQ(model.with_prompt("", "hello"), "hello");
  expect_error(ErrorCode::unsupported, "\"include_prompt\"", [&] { (void)model.with_prompt("query: ", "hello"); });
}

TEST_F(EmbeddingModules, TheTokenizersLengthCountsWhereNoOtherIsGiven) {
  fs::remove(folder_ / "sentence_bert_config.json");
  EXPECT_EQ(EmbeddingModel::load(folder_).max_tokens(), 48);  // the encoder's positions
  edit("tokenizer_config.json", [](Json& j) { j["model_max_length"] = 12; });
  EXPECT_EQ(EmbeddingModel::load(folder_).max_tokens(), 12);
  edit("tokenizer_config.json", [](Json& j) { j["model_max_length"] = 1e30; });
  EXPECT_EQ(EmbeddingModel::load(folder_).max_tokens(), 48);
}

TEST_F(EmbeddingModules, RefusedByName) {
  const std::string dense_type = "sentence_transformers.models.Dense";
  struct Case {
    std::string file;
    std::string part;
    std::function<void(Json&)> change;
    ErrorCode code = ErrorCode::unsupported;
  };
  const auto set = [](std::string key, Json value) {
    return [key = std::move(key), value = std::move(value)](Json& j) { j[key] = value; };
  };
  const std::vector<Case> cases = {
      {"modules.json", "module sentence_transformers.models.CNN",
       [](Json& j) { j[1]["type"] = "sentence_transformers.models.CNN"; }},
      {"modules.json", "module custom.Transformer", [](Json& j) { j[0]["type"] = "custom.Transformer"; }},
      {"modules.json", "module sentence_transformers.models.Normalize", [](Json& j) { std::swap(j[1], j[2]); }},
      {"modules.json", "\"path\" is \"../other\"", [](Json& j) { j[1]["path"] = "../other"; }, ErrorCode::format},
      {"modules.json", "expected a Transformer and a Pooling", [](Json& j) { j = Json::array(); }, ErrorCode::format},
      {"modules.json", "expected a list", [](Json& j) { j = 3; }, ErrorCode::format},
      {"1_Pooling/config.json", "mode \"weightedmean\"", set("pooling_mode", "weightedmean")},
      {"1_Pooling/config.json", "\"pooling_mode_other\"", set("pooling_mode_other", true)},
      {"1_Pooling/config.json", "\"pooling_mode\" names none", set("pooling_mode", Json::array()), ErrorCode::format},
      {"1_Pooling/config.json", "for 17 columns, the model has 16", set("word_embedding_dimension", 17),
       ErrorCode::format},
      {"sentence_bert_config.json", "\"new_key\"", set("new_key", 1)},
      {"sentence_bert_config.json", "\"transformer_task\" is \"fill-mask\"", set("transformer_task", "fill-mask")},
      {"sentence_bert_config.json", "\"query_length\"", set("query_length", 32)},
      {"sentence_bert_config.json", "\"modality_config\"", set("modality_config", Json::object())},
      {"sentence_bert_config.json", "\"max_seq_length\" is 0", set("max_seq_length", 0), ErrorCode::format},
      {"2_Dense/config.json", "\"activation_function\" is \"torch.nn.modules.activation.Mish\"",
       set("activation_function", "torch.nn.modules.activation.Mish")},
      {"2_Dense/config.json", "\"activation_function\" is \"custom.Tanh\"", set("activation_function", "custom.Tanh")},
      {"2_Dense/config.json", "\"use_residual\" true", set("use_residual", true)},
      {"2_Dense/config.json", "\"module_input_name\" \"token_embeddings\"",
       set("module_input_name", "token_embeddings")},
      {"2_Dense/config.json", "linear.bias", set("bias", false), ErrorCode::format},
      {"2_Dense/config.json", "linear.weight has shape [12, 16]", set("out_features", 13), ErrorCode::format},
  };
  for (const Case& each : cases) {
    SCOPED_TRACE(each.part);
    make();
    if (each.file.starts_with("2_Dense")) {
      edit("modules.json", [&](Json& j) { j[2] = {{"type", dense_type}, {"path", "2_Dense"}}; });
    }
    edit(each.file, each.change);
    expect_load_error(each.code, each.part);
  }
  make();
  edit("modules.json", [&](Json& j) { j[2] = {{"type", dense_type}, {"path", "2_Dense"}}; });
  fs::rename(folder_ / "2_Dense" / "model.safetensors", folder_ / "2_Dense" / "pytorch_model.bin");
  expect_load_error(ErrorCode::unsupported, "pytorch_model.bin: only safetensors are read");
  make();
  put("config_sentence_transformers.json", {{"model_type", "SparseEncoder"}});
  expect_load_error(ErrorCode::unsupported, "\"model_type\" is \"SparseEncoder\"");
}

}  // namespace
}  // namespace wick::test
