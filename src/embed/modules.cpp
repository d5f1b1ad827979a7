#include "embed/modules.h"

#include <algorithm>
#include <array>

#include "core/fail.h"
#include "io/json.h"

namespace wick {
namespace {

namespace fs = std::filesystem;

/// Error(unsupported) naming a key of `json` that is not among `known`: what it asks for would not be done.
template <std::size_t kCount>
void refuse_unknown(const Json& json, const std::array<std::string_view, kCount>& known, const std::string& where) {
  for (const auto& [key, value] : json.items()) {
    if (std::ranges::find(known, key) == known.end()) {
      fail(ErrorCode::unsupported, "{}: \"{}\" is not supported", where, key);
    }
  }
}

/// Error(unsupported) unless json[key] is missing, null or `expected`.
void require(const Json& json, std::string_view key, const Json& expected, const std::string& where) {
  const auto value = json.find(key);
  if (value == json.end() || value->is_null() || *value == expected) return;
  fail(ErrorCode::unsupported, "{}: \"{}\" is {}, only {} is supported", where, key, value->dump(), expected.dump());
}

Json read_object(const fs::path& path) {
  Json json = read_json_file(path);
  if (!json.is_object()) fail(ErrorCode::format, "{}: expected an object", path.string());
  return json;
}

fs::path module_folder(const fs::path& folder, const std::string& relative, const std::string& where) {
  const fs::path path = relative;
  if (path.is_absolute() || std::ranges::find(path, fs::path("..")) != path.end()) {
    fail(ErrorCode::format, "{}: \"path\" is \"{}\", expected a folder in this one", where, relative);
  }
  return path.empty() ? folder : folder / path;
}

// Modules that are normalizations or work on something else than the sentence's vector say so in a config.json.
void require_sentence_embedding(const Json& json, const std::string& where) {
  for (const char* key : {"module_input_name", "module_output_name"}) require(json, key, "sentence_embedding", where);
}

void read_normalize(const fs::path& folder) {
  const fs::path path = folder / "config.json";  // the folder itself may be missing: git keeps no empty ones
  if (fs::exists(path)) require_sentence_embedding(read_object(path), path.string());
}

// Up to version 5: a switch for each mode, put side by side in this order.
constexpr std::array<std::pair<std::string_view, std::string_view>, 6> kSwitches{
    {{"pooling_mode_cls_token", "cls"},
     {"pooling_mode_max_tokens", "max"},
     {"pooling_mode_mean_tokens", "mean"},
     {"pooling_mode_mean_sqrt_len_tokens", "mean_sqrt_len_tokens"},
     {"pooling_mode_weightedmean_tokens", "weightedmean"},
     {"pooling_mode_lasttoken", "lasttoken"}}};

Pooling pooling_from(const std::string& mode, const std::string& where) {
  if (mode == "cls") return Pooling::cls;
  if (mode == "max") return Pooling::max;
  if (mode == "mean") return Pooling::mean;
  if (mode == "mean_sqrt_len_tokens") return Pooling::mean_sqrt;
  if (mode == "lasttoken") return Pooling::last;
  fail(ErrorCode::unsupported,
       "{}: the pooling mode \"{}\" is not supported (cls, max, mean, mean_sqrt_len_tokens and lasttoken are)", where,
       mode);
}

void read_pooling(const fs::path& folder, EmbeddingModules& modules) {
  const fs::path path = folder / "config.json";
  const std::string where = path.string();
  const Json json = read_object(path);
  std::vector<std::string> modes;
  if (const auto mode = json.find("pooling_mode"); mode != json.end()) {
    modes = mode->is_string() ? std::vector<std::string>{mode->get<std::string>()}
                              : get<std::vector<std::string>>(json, "pooling_mode", where);
    if (modes.empty()) fail(ErrorCode::format, "{}: \"pooling_mode\" names none", where);
  } else {
    for (const auto& [key, name] : kSwitches) {
      if (get_or<bool>(json, key, false, where)) modes.emplace_back(name);
    }
    if (modes.empty()) modes.emplace_back("mean");
  }
  for (const std::string& mode : modes) modules.pooling.push_back(pooling_from(mode, where));
  for (const auto& [key, value] : json.items()) {
    const bool known = key == "pooling_mode" || key == "word_embedding_dimension" || key == "embedding_dimension" ||
                       key == "include_prompt" ||
                       std::ranges::any_of(kSwitches, [&key = key](const auto& each) { return each.first == key; });
    if (!known) fail(ErrorCode::unsupported, "{}: \"{}\" is not supported", where, key);
  }
  for (const char* key : {"word_embedding_dimension", "embedding_dimension"}) {
    if (json.contains(key)) modules.width = get_positive(json, key, where);
  }
  modules.include_prompt = get_or<bool>(json, "include_prompt", true, where);
}

// sentence_bert_config.json, by whichever name. Version 6 leaves the length to the tokenizer.
void read_transformer(const fs::path& folder, EmbeddingModules& modules) {
  modules.encoder = folder;
  for (const char* kind : {"bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet"}) {
    const fs::path path = folder / fmt::format("sentence_{}_config.json", kind);
    if (!fs::exists(path)) continue;
    const std::string where = path.string();
    const Json json = read_object(path);
    constexpr std::array<std::string_view, 8> kKnown{
        "max_seq_length",     "do_lower_case",     "transformer_task", "modality_config",
        "module_output_name", "processing_kwargs", "unpad_inputs",     "backend"};
    Json rest = json;
    for (const char* key : {"query_length", "document_length", "query_expansion", "model_args", "model_kwargs",
                            "tokenizer_args", "processor_kwargs", "config_args", "config_kwargs"}) {
      const auto value = rest.find(key);
      if (value == rest.end()) continue;
      if (value->is_object()) value->erase("trust_remote_code");  // is never followed, by the reference neither
      if (value->empty()) rest.erase(value);                      // null, too
    }
    refuse_unknown(rest, kKnown, where);
    require(json, "transformer_task", "feature-extraction", where);
    require(json, "module_output_name", "token_embeddings", where);
    require(json, "processing_kwargs", Json::object(), where);
    if (const auto kinds = json.find("modality_config"); kinds != json.end()) {
      const Json text = get_or<Json>(*kinds, "text", Json::object(), where);
      if (get_or<std::string>(text, "method", "", where) != "forward" ||
          get_or<std::string>(text, "method_output_name", "", where) != "last_hidden_state") {
        fail(ErrorCode::unsupported, "{}: \"modality_config\" takes no text, or not from the last hidden state", where);
      }
    }
    if (const auto length = get_optional<Json>(json, "max_seq_length", where)) {
      modules.max_tokens = get_positive(json, "max_seq_length", where);
    }
    modules.lower_case = get_or<bool>(json, "do_lower_case", false, where);
    return;
  }
}

// What the tokenizer was made for; "no limit" is written as 10³⁰.
void read_tokenizer_length(EmbeddingModules& modules) {
  const fs::path path = modules.encoder / "tokenizer_config.json";
  if (modules.max_tokens || !fs::exists(path)) return;
  const std::string where = path.string();
  const Json json = read_object(path);
  if (get_or<double>(json, "model_max_length", 1e30, where) < 1e9) {
    modules.max_tokens = get_positive(json, "model_max_length", where);
  }
}

void read_prompts(const fs::path& folder, EmbeddingModules& modules) {
  const fs::path path = folder / "config_sentence_transformers.json";
  if (!fs::exists(path)) return;
  const std::string where = path.string();
  const Json json = read_object(path);
  require(json, "model_type", "SentenceTransformer", where);
  const Json prompts = get_or<Json>(json, "prompts", Json::object(), where);
  if (!prompts.is_object()) fail(ErrorCode::format, "{}: \"prompts\" is no object", where);
  for (const auto& [name, text] : prompts.items()) {
    modules.prompts[name] = get_or<std::string>(prompts, name, "", where);
  }
  modules.default_prompt = get_optional<std::string>(json, "default_prompt_name", where);
  if (modules.default_prompt && !modules.prompts.contains(*modules.default_prompt)) {
    fail(ErrorCode::format, "{}: \"default_prompt_name\" is \"{}\", which \"prompts\" does not have", where,
         *modules.default_prompt);
  }
}

bool has_lowercase(const Json& normalizer) {
  if (!normalizer.is_object()) return false;
  const Json type = normalizer.value("type", Json());
  if (type == "Lowercase") return true;
  const Json parts = normalizer.value("normalizers", Json::array());
  return type == "Sequence" && std::ranges::any_of(parts, [](const Json& part) {
           return part.is_object() && part.value("type", Json()) == "Lowercase";
         });
}

}  // namespace

EmbeddingModules read_embedding_modules(const fs::path& folder) {
  const fs::path path = folder / "modules.json";
  EmbeddingModules modules;
  if (!fs::exists(path)) {
    modules.encoder = folder;
    modules.pooling = {Pooling::mean};
    read_tokenizer_length(modules);
    return modules;
  }
  const std::string where = path.string();
  const Json list = read_json_file(path);
  if (!list.is_array()) fail(ErrorCode::format, "{}: expected a list of modules", where);
  for (const Json& module : list) {
    // A class has moved from package to package; its own name stayed.
    const std::string type = get<std::string>(module, "type", where);
    const std::string name = type.starts_with("sentence_transformers.") ? type.substr(type.rfind('.') + 1) : type;
    const fs::path at = module_folder(folder, get<std::string>(module, "path", where), where);
    const bool pooled = !modules.pooling.empty();
    if (name == "Transformer" && modules.encoder.empty()) {
      read_transformer(at, modules);
    } else if (name == "Pooling" && !modules.encoder.empty() && !pooled) {
      read_pooling(at, modules);
    } else if (name == "Dense" && pooled) {
      modules.steps.push_back({at});
    } else if (name == "Normalize" && pooled) {
      read_normalize(at);
      modules.steps.push_back({});
    } else {
      fail(ErrorCode::unsupported,
           "{}: module {} is not supported there (a Transformer, a Pooling, then Dense and Normalize are)", where,
           type);
    }
  }
  if (modules.pooling.empty()) fail(ErrorCode::format, "{}: expected a Transformer and a Pooling module", where);
  read_tokenizer_length(modules);
  read_prompts(folder, modules);
  return modules;
}

Tokenizer load_embedding_tokenizer(const fs::path& folder, bool lower_case) {
  const fs::path path = folder / "tokenizer.json";
  constexpr TokenizerOptions kOptions{.truncate = false};
  if (!lower_case) return Tokenizer::from_file(path, kOptions);
  Json json = read_object(path);
  Json& normalizer = json["normalizer"];
  if (has_lowercase(normalizer)) return Tokenizer::from_file(path, kOptions);
  Json parts = Json::array({{{"type", "Lowercase"}}});
  if (!normalizer.is_null()) parts.push_back(std::move(normalizer));
  normalizer = {{"type", "Sequence"}, {"normalizers", std::move(parts)}};
  return Tokenizer::from_json(json.dump(), path.string(), kOptions);
}

}  // namespace wick
