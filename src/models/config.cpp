#include <algorithm>
#include <array>
#include <utility>

#include "core/fail.h"
#include "io/json.h"
#include "wick/model.h"

namespace wick {
namespace {

constexpr std::array<std::pair<std::string_view, Architecture>, 4> kArchitectures{{
    {"LlamaForCausalLM", Architecture::llama},
    {"Qwen2ForCausalLM", Architecture::qwen2},
    {"Qwen3ForCausalLM", Architecture::qwen3},
    {"MistralForCausalLM", Architecture::mistral},
}};

Architecture read_architecture(const Json& json, const std::string& where) {
  const auto names = get<std::vector<std::string>>(json, "architectures", where);
  for (const auto& [name, architecture] : kArchitectures) {
    if (names.size() == 1 && names[0] == name) return architecture;
  }
  fail(ErrorCode::unsupported, "{}: architecture {} is not supported (LlamaForCausalLM, Qwen2ForCausalLM, "
       "Qwen3ForCausalLM and MistralForCausalLM are)", where, names.empty() ? "(none)" : names[0]);
}

// Options that change what the model computes and that nothing here computes: refused by name unless they are off.
void refuse_unsupported(const Json& json, const std::string& where) {
  const std::string activation = get_or<std::string>(json, "hidden_act", "silu", where);
  if (activation != "silu") {
    fail(ErrorCode::unsupported, "{}: \"hidden_act\" is \"{}\", only silu is supported", where, activation);
  }
  for (const char* key : {"quantization_config", "compression_config"}) {
    if (json.contains(key) && !json[key].is_null()) fail(ErrorCode::unsupported, "{}: \"{}\" is not supported", where, key);
  }
  for (const auto& [key, off] : {std::pair{"attention_dropout", 0.0}, {"partial_rotary_factor", 1.0}, {"pretraining_tp", 1.0},
                                 {"embedding_multiplier", 1.0}, {"residual_multiplier", 1.0}, {"logits_scaling", 1.0}}) {
    const double value = get_or<double>(json, key, off, where);
    if (value != off) fail(ErrorCode::unsupported, "{}: \"{}\" is {}, only {} is supported", where, key, value, off);
  }
}

RopeConfig read_rope(const Json& json, const std::string& where, std::int64_t max_positions) {
  RopeConfig rope;
  // Two spellings: rope_theta beside rope_scaling, and rope_parameters that holds both.
  rope.theta = get_or<double>(json, "rope_theta", rope.theta, where);
  const auto old_style = get_optional<Json>(json, "rope_scaling", where);
  const auto new_style = get_optional<Json>(json, "rope_parameters", where);
  if (!old_style && !new_style) return rope;
  const Json& scaling = new_style ? *new_style : *old_style;
  const std::string in = where + (new_style ? ": rope_parameters" : ": rope_scaling");
  if (!scaling.is_object()) fail(ErrorCode::format, "{} is not an object", in);
  rope.theta = get_or<double>(scaling, "rope_theta", rope.theta, in);
  const std::string kind = get_or<std::string>(scaling, "rope_type", get_or<std::string>(scaling, "type", "default", in), in);
  if (get_or<double>(scaling, "partial_rotary_factor", 1.0, in) != 1.0) {
    fail(ErrorCode::unsupported, "{}: a partial_rotary_factor other than 1 is not supported", in);
  }
  if (kind == "linear") {
    rope.kind = RopeConfig::Kind::linear;
    rope.factor = get<double>(scaling, "factor", in);
  } else if (kind == "llama3") {
    rope.kind = RopeConfig::Kind::llama3;
    rope.factor = get<double>(scaling, "factor", in);
    rope.low_freq_factor = get<double>(scaling, "low_freq_factor", in);
    rope.high_freq_factor = get<double>(scaling, "high_freq_factor", in);
    rope.original_max_position_embeddings =
        get_positive_or(scaling, "original_max_position_embeddings", max_positions, in);
    if (!(rope.high_freq_factor > rope.low_freq_factor && rope.low_freq_factor > 0)) {
      fail(ErrorCode::format, "{}: high_freq_factor is {}, low_freq_factor {}", in, rope.high_freq_factor, rope.low_freq_factor);
    }
  } else if (kind != "default") {
    fail(ErrorCode::unsupported, "{}: rope type \"{}\" is not supported (default, linear and llama3 are)", in, kind);
  }
  if (!(rope.theta > 0) || !(rope.factor > 0)) {
    fail(ErrorCode::format, "{}: theta {} and factor {} must be positive", in, rope.theta, rope.factor);
  }
  return rope;
}

std::vector<std::int64_t> read_windows(const Json& json, const std::string& where, Architecture architecture, std::int64_t layers) {
  std::vector<std::int64_t> windows(static_cast<std::size_t>(layers), 0);
  const auto window = get_optional<std::int64_t>(json, "sliding_window", where);
  const bool qwen = architecture == Architecture::qwen2 || architecture == Architecture::qwen3;
  const bool used = architecture == Architecture::mistral || (qwen && get_or<bool>(json, "use_sliding_window", false, where));
  if (!window || !used) return windows;
  if (*window < 1) fail(ErrorCode::format, "{}: \"sliding_window\" is {}, expected a positive number", where, *window);
  const auto types = get_optional<std::vector<std::string>>(json, "layer_types", where);
  if (types && static_cast<std::int64_t>(types->size()) != layers) {
    fail(ErrorCode::format, "{}: {} layer_types for {} layers", where, types->size(), layers);
  }
  const std::int64_t first = qwen ? get_or<std::int64_t>(json, "max_window_layers", 28, where) : 0;
  for (std::int64_t i = 0; i < layers; ++i) {
    bool sliding = i >= first;
    if (types) {
      const std::string& type = (*types)[static_cast<std::size_t>(i)];
      sliding = type == "sliding_attention";
      if (!sliding && type != "full_attention") fail(ErrorCode::unsupported, "{}: layer type \"{}\" is not supported", where, type);
    }
    if (sliding) windows[static_cast<std::size_t>(i)] = *window;
  }
  return windows;
}

std::vector<std::int32_t> read_eos(const Json& json, const std::string& where) {
  if (!json.contains("eos_token_id") || json["eos_token_id"].is_null()) return {};
  if (json["eos_token_id"].is_array()) return get<std::vector<std::int32_t>>(json, "eos_token_id", where);
  return {get<std::int32_t>(json, "eos_token_id", where)};
}

// An extent: positive, and small enough that no product of a few of them leaves 63 bits.
std::int64_t extent(std::int64_t value, const char* key, const std::string& where) {
  if (value > (std::int64_t{1} << 24)) fail(ErrorCode::format, "{}: \"{}\" is {}, larger than 2^24", where, key, value);
  return value;
}

}  // namespace

std::string_view to_string(Architecture architecture) noexcept {
  switch (architecture) {
    case Architecture::llama: return "llama";
    case Architecture::qwen2: return "qwen2";
    case Architecture::qwen3: return "qwen3";
    case Architecture::mistral: return "mistral";
  }
  return "?";
}

ModelConfig ModelConfig::from_folder(const std::filesystem::path& folder) {
  const std::filesystem::path file = folder / "config.json";
  const std::string where = file.string();
  const Json json = read_json_file(file);
  ModelConfig c;
  c.architecture = read_architecture(json, where);
  refuse_unsupported(json, where);
  const auto size = [&](const char* key) { return extent(get_positive(json, key, where), key, where); };
  const auto size_or = [&](const char* key, std::int64_t fallback) {
    return extent(get_positive_or(json, key, fallback, where), key, where);
  };
  c.vocab_size = size("vocab_size");
  c.hidden_size = size("hidden_size");
  c.intermediate_size = size("intermediate_size");
  c.num_hidden_layers = size("num_hidden_layers");
  if (c.num_hidden_layers > 1024) fail(ErrorCode::format, "{}: {} layers", where, c.num_hidden_layers);
  c.num_attention_heads = size("num_attention_heads");
  c.num_key_value_heads = size_or("num_key_value_heads", c.num_attention_heads);
  if (c.num_attention_heads % c.num_key_value_heads != 0) {
    fail(ErrorCode::format, "{}: {} attention heads are no multiple of {} key-value heads", where, c.num_attention_heads,
         c.num_key_value_heads);
  }
  if (!json.contains("head_dim") && c.hidden_size % c.num_attention_heads != 0) {
    fail(ErrorCode::format, "{}: hidden_size {} is no multiple of {} heads and there is no head_dim", where,
         c.hidden_size, c.num_attention_heads);
  }
  const std::int64_t split = std::max<std::int64_t>(1, c.hidden_size / c.num_attention_heads);
  c.head_dim = size_or("head_dim", c.architecture == Architecture::qwen3 ? 128 : split);
  extent(c.num_attention_heads * c.head_dim, "num_attention_heads\" times \"head_dim", where);
  if (c.head_dim % 2 != 0) fail(ErrorCode::format, "{}: head_dim {} is odd", where, c.head_dim);
  c.max_position_embeddings = get_positive_or(json, "max_position_embeddings", 2048, where);
  c.rms_norm_eps = get_or<double>(json, "rms_norm_eps", 1e-6, where);
  if (!(c.rms_norm_eps > 0)) fail(ErrorCode::format, "{}: \"rms_norm_eps\" is {}", where, c.rms_norm_eps);
  c.rope = read_rope(json, where, c.max_position_embeddings);
  const bool attention_bias = get_or<bool>(json, "attention_bias", false, where);
  switch (c.architecture) {
    case Architecture::llama:
      c.qkv_bias = c.output_bias = attention_bias;
      c.mlp_bias = get_or<bool>(json, "mlp_bias", false, where);
      break;
    case Architecture::qwen2: c.qkv_bias = true; break;
    case Architecture::qwen3:
      c.qkv_bias = c.output_bias = attention_bias;
      c.qk_norm = true;
      break;
    case Architecture::mistral: break;
  }
  c.tie_word_embeddings = get_or<bool>(json, "tie_word_embeddings", false, where);
  c.sliding_window = read_windows(json, where, c.architecture, c.num_hidden_layers);
  c.bos_token_id = get_optional<std::int32_t>(json, "bos_token_id", where);
  c.pad_token_id = get_optional<std::int32_t>(json, "pad_token_id", where);
  c.eos_token_ids = read_eos(json, where);
  const std::filesystem::path generation = folder / "generation_config.json";
  if (std::filesystem::exists(generation)) {
    const std::vector<std::int32_t> eos = read_eos(read_json_file(generation), generation.string());
    if (!eos.empty()) c.eos_token_ids = eos;
  }
  const std::string dtype = get_or<std::string>(json, "dtype", get_or<std::string>(json, "torch_dtype", "float32", where), where);
  c.dtype = dtype_from_string(dtype);
  return c;
}

std::int64_t ModelConfig::parameter_count() const {
  const std::int64_t q = num_attention_heads * head_dim;
  const std::int64_t kv = num_key_value_heads * head_dim;
  std::int64_t layer = hidden_size * (q + 2 * kv) + q * hidden_size + 3 * hidden_size * intermediate_size + 2 * hidden_size;
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
