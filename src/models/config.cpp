#include <algorithm>
#include <array>
#include <utility>

#include "core/fail.h"
#include "io/json.h"
#include "wick/model.h"

namespace wick {
namespace {

// Language models, and the same without their output head.
constexpr std::array<std::pair<std::string_view, Architecture>, 8> kArchitectures{{
    {"LlamaForCausalLM", Architecture::llama},
    {"Qwen2ForCausalLM", Architecture::qwen2},
    {"Qwen3ForCausalLM", Architecture::qwen3},
    {"MistralForCausalLM", Architecture::mistral},
    {"LlamaModel", Architecture::llama},
    {"Qwen2Model", Architecture::qwen2},
    {"Qwen3Model", Architecture::qwen3},
    {"MistralModel", Architecture::mistral},
}};

Architecture read_architecture(const Json& json, const std::string& where) {
  const auto names = get<std::vector<std::string>>(json, "architectures", where);
  for (const auto& [name, architecture] : kArchitectures) {
    if (names.size() == 1 && names[0] == name) return architecture;
  }
  fail(ErrorCode::unsupported,
       "{}: architecture {} is not supported (LlamaForCausalLM, Qwen2ForCausalLM, "
       "Qwen3ForCausalLM and MistralForCausalLM are, and their base models)",
       where, names.empty() ? "(none)" : names[0]);
}

bool is_qwen(Architecture architecture) {
  return architecture == Architecture::qwen2 || architecture == Architecture::qwen3;
}

// Options that change what the model computes and that nothing here computes: refused by name unless they are off.
void refuse_unsupported(const Json& json, const std::string& where, Architecture architecture) {
  const std::string activation = get_or<std::string>(json, "hidden_act", "silu", where);
  if (activation != "silu" && activation != "swish") {
    fail(ErrorCode::unsupported, "{}: \"hidden_act\" is \"{}\", only silu is supported", where, activation);
  }
  for (const char* key : {"quantization_config", "compression_config", "per_layer_config"}) {
    if (json.contains(key) && !json[key].is_null())
      fail(ErrorCode::unsupported, "{}: \"{}\" is not supported", where, key);
  }
  for (const auto& [key, off] : {std::pair{"attention_dropout", 0.0},
                                 {"partial_rotary_factor", 1.0},
                                 {"embedding_multiplier", 1.0},
                                 {"residual_multiplier", 1.0},
                                 {"logits_scaling", 1.0}}) {
    const double value = get_or<double>(json, key, off, where);
    if (value != off) fail(ErrorCode::unsupported, "{}: \"{}\" is {}, only {} is supported", where, key, value, off);
  }
  if (!get_or<bool>(json, "is_causal", true, where)) {
    fail(ErrorCode::unsupported, "{}: \"is_causal\" is false, only causal models are supported", where);
  }
  // The families whose projections have no bias to switch on; their weights would not have it either.
  for (const auto& [key, known] : {std::pair{"attention_bias", architecture != Architecture::mistral},
                                   {"mlp_bias", architecture == Architecture::llama}}) {
    if (!known && get_or<bool>(json, key, false, where)) {
      fail(ErrorCode::unsupported, "{}: \"{}\" is true, which {} models do not have", where, key,
           to_string(architecture));
    }
  }
}

RopeConfig read_rope(const Json& json, const std::string& where, std::int64_t max_positions) {
  RopeConfig rope;
  // Two spellings: rope_theta beside rope_scaling, and rope_parameters that holds both. As in transformers the first
  // wins unless it is empty, and a rope_theta inside wins over one beside.
  rope.theta = get_or<double>(json, "rope_theta", rope.theta, where);
  const char* key = "rope_scaling";
  auto found = get_optional<Json>(json, key, where);
  if (!found || found->empty()) found = get_optional<Json>(json, key = "rope_parameters", where);
  const Json scaling = found ? *found : Json::object();
  const std::string in = found ? fmt::format("{}: {}", where, key) : where;
  if (!scaling.is_object()) json_detail::wrong(where, key, scaling, "an object");
  for (const auto& [name, value] : scaling.items()) {
    if (value.is_object())
      fail(ErrorCode::unsupported, "{}: \"{}\" is an object; one RoPE for each layer type is not supported", in, name);
  }
  rope.theta = get_or<double>(scaling, "rope_theta", rope.theta, in);
  const std::string kind =
      get_or<std::string>(scaling, "rope_type", get_or<std::string>(scaling, "type", "default", in), in);
  if (get_or<double>(scaling, "partial_rotary_factor", 1.0, in) != 1.0) {
    fail(ErrorCode::unsupported, "{}: a \"partial_rotary_factor\" other than 1 is not supported", in);
  }
  if (kind == "linear") {
    rope.kind = RopeConfig::Kind::linear;
    rope.factor = get<double>(scaling, "factor", in);
  } else if (kind == "llama3") {
    rope.kind = RopeConfig::Kind::llama3;
    rope.factor = get<double>(scaling, "factor", in);
    rope.low_freq_factor = get<double>(scaling, "low_freq_factor", in);
    rope.high_freq_factor = get<double>(scaling, "high_freq_factor", in);
    const std::int64_t inner = get_positive_or(scaling, "original_max_position_embeddings", max_positions, in);
    rope.original_max_position_embeddings = get_positive_or(json, "original_max_position_embeddings", inner, where);
    if (!(rope.high_freq_factor > rope.low_freq_factor && rope.low_freq_factor > 0)) {
      fail(ErrorCode::format, "{}: \"high_freq_factor\" is {}, \"low_freq_factor\" {}, expected 0 < low < high", in,
           rope.high_freq_factor, rope.low_freq_factor);
    }
  } else if (kind != "default") {
    fail(ErrorCode::unsupported, "{}: rope type \"{}\" is not supported (default, linear and llama3 are)", in, kind);
  }
  if (!(rope.theta > 0))
    fail(ErrorCode::format, "{}: \"rope_theta\" is {}, expected a positive number", in, rope.theta);
  if (!(rope.factor > 0)) fail(ErrorCode::format, "{}: \"factor\" is {}, expected a positive number", in, rope.factor);
  return rope;
}

// What config.json says of each layer: true for those that slide. Empty without layer_types.
std::vector<bool> read_layer_types(const Json& json, const std::string& where, std::int64_t layers) {
  const auto types = get_optional<std::vector<std::string>>(json, "layer_types", where);
  if (!types) return {};
  if (static_cast<std::int64_t>(types->size()) != layers) {
    fail(ErrorCode::format, "{}: \"layer_types\" names {} layers, num_hidden_layers is {}", where, types->size(),
         layers);
  }
  std::vector<bool> sliding;
  for (const std::string& type : *types) {
    sliding.push_back(type == "sliding_attention");
    if (type != "sliding_attention" && type != "full_attention") {
      fail(ErrorCode::unsupported,
           "{}: \"layer_types\" has \"{}\", only full_attention and sliding_attention are supported", where, type);
    }
  }
  return sliding;
}

std::vector<std::int64_t> read_windows(const Json& json, const std::string& where, Architecture architecture,
                                       std::int64_t layers) {
  const std::vector<bool> types = read_layer_types(json, where, layers);
  // The classes' default where the key is missing; null means none.
  std::optional<std::int64_t> window =
      json.contains("sliding_window") ? get_optional<std::int64_t>(json, "sliding_window", where) : 4096;
  if (architecture == Architecture::llama) {
    if (json.contains("sliding_window") && window)
      fail(ErrorCode::unsupported, "{}: \"sliding_window\" is {}, llama models have none", where, *window);
    window.reset();
  }
  if (is_qwen(architecture) && !get_or<bool>(json, "use_sliding_window", false, where)) window.reset();
  if (window && *window < 1)
    fail(ErrorCode::format, "{}: \"sliding_window\" is {}, expected a positive number", where, *window);

  const std::int64_t first = is_qwen(architecture) ? get_or<std::int64_t>(json, "max_window_layers", 28, where) : 0;
  std::vector<std::int64_t> windows(static_cast<std::size_t>(layers), 0);
  for (std::int64_t i = 0; i < layers; ++i) {
    const auto at = static_cast<std::size_t>(i);
    const bool sliding = types.empty() ? window && i >= first : types[at];
    // Mistral's class has one window for all layers; files that mix are of other classes.
    if ((sliding && !window) || (architecture == Architecture::mistral && window && !sliding)) {
      fail(ErrorCode::unsupported,
           "{}: \"layer_types\" has {} for layer {}, which contradicts \"sliding_window\" of a {} model", where,
           sliding ? "sliding_attention" : "full_attention", i, to_string(architecture));
    }
    if (sliding) windows[at] = *window;
  }
  return windows;
}

std::vector<std::int32_t> read_eos(const Json& json, const std::string& where) {
  const auto found = get_optional<Json>(json, "eos_token_id", where);
  if (!found) return {};
  std::vector<std::int32_t> ids;
  if (found->is_array()) {
    ids = get<std::vector<std::int32_t>>(json, "eos_token_id", where);
  } else {
    ids = {get<std::int32_t>(json, "eos_token_id", where)};
  }
  for (const std::int32_t id : ids) {
    if (id < 0) fail(ErrorCode::format, "{}: \"eos_token_id\" is {}, expected an id", where, id);
  }
  return ids;
}

DType read_dtype(const Json& json, const std::string& where) {
  const char* key = get_optional<std::string>(json, "dtype", where) ? "dtype" : "torch_dtype";
  const std::string name = get_or<std::string>(json, key, "float32", where);
  const DType dtype = [&] {
    try {
      return dtype_from_string(name);
    } catch (const Error&) {
      return DType::i32;
    }
  }();
  if (!is_floating(dtype))
    fail(ErrorCode::unsupported, "{}: \"{}\" is \"{}\", which is no dtype of weights here", where, key, name);
  return dtype;
}

// Largest extents: far above any model's, and so small that parameter_count() stays within 63 bits.
constexpr std::int64_t kLargestWidth = std::int64_t{1} << 20;  // hidden, intermediate, heads * head_dim
constexpr std::int64_t kLargestVocabulary = std::int64_t{1} << 24;
constexpr std::int64_t kMostLayers = std::int64_t{1} << 14;

std::int64_t at_most(std::int64_t most, std::int64_t value, const char* key, const std::string& where) {
  if (value > most) fail(ErrorCode::format, "{}: \"{}\" is {}, expected at most {}", where, key, value, most);
  return value;
}

}  // namespace

std::string_view to_string(Architecture architecture) noexcept {
  switch (architecture) {
    case Architecture::llama:
      return "llama";
    case Architecture::qwen2:
      return "qwen2";
    case Architecture::qwen3:
      return "qwen3";
    case Architecture::mistral:
      return "mistral";
  }
  return "?";
}

ModelConfig ModelConfig::from_file(const std::filesystem::path& file) {
  const std::string where = file.string();
  const Json json = read_json_file(file);
  ModelConfig c;
  c.architecture = read_architecture(json, where);
  refuse_unsupported(json, where, c.architecture);
  const auto size = [&](const char* key, std::int64_t most = kLargestWidth) {
    return at_most(most, get_positive(json, key, where), key, where);
  };
  // Null stands for a fallback of its own, a missing key for the default of the architecture's class in transformers.
  const auto size_or = [&](const char* key, std::int64_t missing, std::int64_t null) {
    return at_most(kLargestWidth, get_positive_or(json, key, json.contains(key) ? null : missing, where), key, where);
  };
  c.vocab_size = size("vocab_size", kLargestVocabulary);
  c.hidden_size = size("hidden_size");
  c.intermediate_size = size("intermediate_size");
  c.num_hidden_layers = size("num_hidden_layers", kMostLayers);
  c.num_attention_heads = size("num_attention_heads");
  const std::int64_t kv_heads = is_qwen(c.architecture)                   ? 32
                                : c.architecture == Architecture::mistral ? 8
                                                                          : c.num_attention_heads;
  c.num_key_value_heads = size_or("num_key_value_heads", kv_heads, c.num_attention_heads);
  if (c.num_attention_heads % c.num_key_value_heads != 0) {
    fail(ErrorCode::format, "{}: \"num_attention_heads\" is {}, expected a multiple of num_key_value_heads {}", where,
         c.num_attention_heads, c.num_key_value_heads);
  }
  const std::int64_t split = c.hidden_size % c.num_attention_heads == 0 ? c.hidden_size / c.num_attention_heads : 0;
  c.head_dim = size_or("head_dim", c.architecture == Architecture::qwen3 ? 128 : split, split);
  if (c.head_dim == 0) {
    fail(ErrorCode::format,
         "{}: \"hidden_size\" is {}, expected a multiple of num_attention_heads {} where there is no head_dim", where,
         c.hidden_size, c.num_attention_heads);
  }
  if (c.head_dim % 2 != 0)
    fail(ErrorCode::format, "{}: \"head_dim\" is {}, expected an even number", where, c.head_dim);
  at_most(kLargestWidth / c.num_attention_heads, c.head_dim, "head_dim", where);
  c.max_position_embeddings = get_positive_or(json, "max_position_embeddings",
                                              is_qwen(c.architecture)                   ? 32768
                                              : c.architecture == Architecture::mistral ? 131072
                                                                                        : 2048,
                                              where);
  c.rms_norm_eps = get_or<double>(json, "rms_norm_eps", 1e-6, where);
  if (!(c.rms_norm_eps > 0))
    fail(ErrorCode::format, "{}: \"rms_norm_eps\" is {}, expected a positive number", where, c.rms_norm_eps);
  c.rope = read_rope(json, where, c.max_position_embeddings);
  const bool attention_bias = get_or<bool>(json, "attention_bias", false, where);
  switch (c.architecture) {
    case Architecture::llama:
      c.qkv_bias = c.output_bias = attention_bias;
      c.mlp_bias = get_or<bool>(json, "mlp_bias", false, where);
      break;
    case Architecture::qwen2:
      c.qkv_bias = true;
      break;
    case Architecture::qwen3:
      c.qkv_bias = c.output_bias = attention_bias;
      c.qk_norm = true;
      break;
    case Architecture::mistral:
      break;
  }
  c.tie_word_embeddings = get_or<bool>(json, "tie_word_embeddings", false, where);
  c.sliding_window = read_windows(json, where, c.architecture, c.num_hidden_layers);
  c.bos_token_id = get_optional<std::int32_t>(json, "bos_token_id", where);
  c.pad_token_id = get_optional<std::int32_t>(json, "pad_token_id", where);
  c.eos_token_ids = read_eos(json, where);
  c.dtype = read_dtype(json, where);
  return c;
}

ModelConfig ModelConfig::from_folder(const std::filesystem::path& folder) {
  ModelConfig c = from_file(folder / "config.json");
  const std::filesystem::path generation = folder / "generation_config.json";
  if (std::filesystem::exists(generation)) {
    const std::vector<std::int32_t> eos = read_eos(read_json_file(generation), generation.string());
    if (!eos.empty()) c.eos_token_ids = eos;
  }
  return c;
}

std::int64_t ModelConfig::parameter_count() const {
  const std::int64_t q = num_attention_heads * head_dim;
  const std::int64_t kv = num_key_value_heads * head_dim;
  std::int64_t layer =
      hidden_size * (q + 2 * kv) + q * hidden_size + 3 * hidden_size * intermediate_size + 2 * hidden_size;
  if (qkv_bias) layer += q + 2 * kv;
  if (output_bias) layer += hidden_size;
  if (mlp_bias) layer += 2 * intermediate_size + hidden_size;
  if (qk_norm) layer += 2 * head_dim;
  return num_hidden_layers * layer + hidden_size + (tie_word_embeddings ? 1 : 2) * vocab_size * hidden_size;
}

std::vector<ModuleInfo> linear_modules(const ModelConfig& c) {
  const std::int64_t q = c.num_attention_heads * c.head_dim;
  const std::int64_t kv = c.num_key_value_heads * c.head_dim;
  std::vector<ModuleInfo> modules;
  for (std::int64_t i = 0; i < c.num_hidden_layers; ++i) {
    const auto add = [&](const char* name, std::int64_t in, std::int64_t out) {
      modules.push_back({.name = fmt::format("model.layers.{}.{}", i, name), .in_features = in, .out_features = out});
    };
    add("self_attn.q_proj", c.hidden_size, q);
    add("self_attn.k_proj", c.hidden_size, kv);
    add("self_attn.v_proj", c.hidden_size, kv);
    add("self_attn.o_proj", q, c.hidden_size);
    add("mlp.gate_proj", c.hidden_size, c.intermediate_size);
    add("mlp.up_proj", c.hidden_size, c.intermediate_size);
    add("mlp.down_proj", c.intermediate_size, c.hidden_size);
  }
  modules.push_back(
      {.name = "lm_head", .in_features = c.hidden_size, .out_features = c.vocab_size, .kind = ModuleKind::output_head});
  return modules;
}

}  // namespace wick
