#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <set>

#include "io/json.h"
#include "io/json_events.h"
#include "io/quote.h"
#include "lora/internal.h"

namespace wick {
namespace {

using lora::Origin;

constexpr std::int64_t kMaxRank = 65536;
constexpr std::size_t kMaxPatterns = 16384;

// Keys that LoraConfig has, and keys whose value decides nothing here: of Megatron, of QA-LoRA (use_qalora must be
// false) and of a running PEFT.
constexpr std::array<std::string_view, 21> kKnownKeys{"alpha_pattern",
                                                      "auto_mapping",
                                                      "base_model_name_or_path",
                                                      "exclude_modules",
                                                      "inference_mode",
                                                      "init_lora_weights",
                                                      "layers_pattern",
                                                      "layers_to_transform",
                                                      "lora_alpha",
                                                      "lora_dropout",
                                                      "megatron_core",
                                                      "peft_type",
                                                      "peft_version",
                                                      "qalora_group_size",
                                                      "r",
                                                      "rank_pattern",
                                                      "revision",
                                                      "runtime_config",
                                                      "target_modules",
                                                      "task_type",
                                                      "use_rslora"};

bool is_inert(std::string_view key, const Json& value) {
  if (value.is_null() || (value.is_boolean() && !value.get<bool>())) return true;
  if (value.is_string()) return value.get_ref<const std::string&>().empty() || (key == "bias" && value == "none");
  return (value.is_object() || value.is_array()) && value.empty();
}

std::string shorten(const Json& value) {
  std::string text = dump_json_line(value);
  if (text.size() > 60) text = text.substr(0, 60) + "...";  // ASCII only, so no character is cut
  return text;
}

void refuse_unsupported(const Json& object, std::string_view where) {
  const auto type = get<std::string>(object, "peft_type", where);
  if (type != "LORA") {
    fail(ErrorCode::unsupported, "{}: \"peft_type\" is {}, expected \"LORA\": no other kind of adapter is supported",
         where, quote(type));
  }
  for (const auto& [key, value] : object.items()) {
    if (std::ranges::find(kKnownKeys, key) != kKnownKeys.end() || is_inert(key, value)) continue;
    fail(ErrorCode::unsupported, "{}: {} is {}, which is not supported", where, quote(key), shorten(value));
  }
}

ModuleSelector read_selector(const Json& object, std::string_view key, std::string_view where) {
  const Json* value = json_detail::find(object, key, where);
  if (value == nullptr) return {};
  if (value->is_string()) return value->get<std::string>();
  if (!value->is_array()) json_detail::wrong(where, key, *value, "a list of module names or a regular expression");
  return get<std::vector<std::string>>(object, key, where);
}

// PEFT takes one of these for a list of one.
template <class T>
std::vector<T> read_one_or_more(const Json& object, std::string_view key, std::string_view where) {
  const Json* value = json_detail::find(object, key, where);
  if (value == nullptr || value->is_array()) return get_or<std::vector<T>>(object, key, {}, where);
  if (std::same_as<T, std::string> && value->is_string() && value->get_ref<const std::string&>().empty()) return {};
  return {get<T>(object, key, where)};
}

// The keys of rank_pattern and alpha_pattern in the file's order, which Json does not keep: the first pattern that
// matches wins.
class PatternKeys final : public JsonEvents {
 public:
  using JsonEvents::JsonEvents;

  const std::vector<std::string>& of(const std::string& key) { return keys_[key]; }

  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool string(string_t&) override { return true; }
  bool start_object(std::size_t) override { return ++depth_ > 0; }
  bool start_array(std::size_t) override { return ++depth_ > 0; }
  bool end_object() override { return --depth_ >= 0; }
  bool end_array() override { return --depth_ >= 0; }
  bool key(string_t& name) override {
    if (depth_ == 1) top_ = name;
    if (depth_ == 2 && (top_ == "rank_pattern" || top_ == "alpha_pattern")) keys_[top_].push_back(name);
    return true;
  }

 private:
  int depth_ = 0;
  std::string top_;
  std::map<std::string, std::vector<std::string>> keys_;
};

template <class T>
ModulePatterns<T> read_patterns(PatternKeys& keys, const Json& object, const std::string& key, std::string_view where) {
  const Json* value = json_detail::find(object, key, where);
  if (value == nullptr) return {};
  if (!value->is_object()) json_detail::wrong(where, key, *value, "an object of a number per pattern");
  const std::string inside = fmt::format("{}: {}", where, quote(key));
  ModulePatterns<T> out;
  for (const auto& pattern : keys.of(key)) out.emplace_back(pattern, get<T>(*value, pattern, inside));
  return out;
}

std::variant<bool, std::string> read_init(const Json& object, std::string_view where) {
  constexpr std::string_view kKey = "init_lora_weights";
  const Json* value = json_detail::find(object, kKey, where);
  if (value == nullptr) return true;
  if (value->is_boolean()) return value->get<bool>();
  if (!value->is_string()) json_detail::wrong(where, kKey, *value, "true, false or the name of a method");
  auto name = value->get<std::string>();
  // These change the frozen weights as well, so that the adapter means nothing on the unchanged model.
  std::string lower = name;
  std::ranges::transform(lower, lower.begin(), [](char c) { return c >= 'A' && c <= 'Z' ? char(c - 'A' + 'a') : c; });
  for (const std::string_view method : {"pissa", "corda", "olora", "loftq", "lora_ga"}) {
    if (lower.starts_with(method)) {
      fail(ErrorCode::unsupported,
           "{}: \"init_lora_weights\" is {}, which changes the model's own weights: not supported", where, quote(name));
    }
  }
  return name;
}

Json to_json(const ModuleSelector& selector, bool empty_is_null) {
  if (const auto* regex = std::get_if<std::string>(&selector)) return *regex;
  const auto& names = std::get<std::vector<std::string>>(selector);
  return names.empty() && empty_is_null ? Json() : Json(names);
}

Json alpha_to_json(double alpha) {
  constexpr double kExact = 9007199254740992.0;  // 2^53
  if (std::abs(alpha) <= kExact && std::trunc(alpha) == alpha) return static_cast<std::int64_t>(alpha);
  return alpha;
}

Json to_json(const std::optional<std::string>& value) { return value ? Json(*value) : Json(); }

template <class T>
Json list_or_null(const std::vector<T>& values) {
  return values.empty() ? Json() : Json(values);
}

void check_rank(std::int64_t rank, std::string_view what, const Origin& origin) {
  if (rank < 1 || rank > kMaxRank) origin.refuse("{} is {}, expected 1 to {}", what, rank, kMaxRank);
}

void check_alpha(double alpha, std::string_view what, const Origin& origin) {
  if (!std::isfinite(alpha)) origin.refuse("{} is {}, expected a finite number", what, alpha);
}

template <class T, class Check>
void check_patterns(const ModulePatterns<T>& patterns, std::string_view name, const Origin& origin, Check&& check) {
  if (patterns.size() > kMaxPatterns) {
    origin.refuse("{} has {} entries, expected at most {}", quote(name), patterns.size(), kMaxPatterns);
  }
  std::set<std::string_view> seen;
  for (const auto& [key, value] : patterns) {
    if (!seen.insert(key).second) origin.refuse("{} has {} twice", quote(name), quote(key));
    check(value, fmt::format("{} {}", quote(name), quote(key)), origin);
  }
}

}  // namespace

namespace lora {

void validate(const LoraConfig& config, const Origin& origin) {
  check_rank(config.rank, "\"r\"", origin);
  check_alpha(config.alpha, "\"lora_alpha\"", origin);
  if (!(config.dropout >= 0 && config.dropout < 1)) {
    origin.refuse("\"lora_dropout\" is {}, expected at least 0 and less than 1", config.dropout);
  }
  check_patterns(config.rank_pattern, "rank_pattern", origin, check_rank);
  check_patterns(config.alpha_pattern, "alpha_pattern", origin, check_alpha);

  const bool by_name = std::holds_alternative<std::vector<std::string>>(config.target_modules);
  const bool empty = std::visit([](const auto& selector) { return selector.empty(); }, config.target_modules);
  if (empty) {
    origin.refuse("\"target_modules\" is empty, expected names of modules, a regular expression or \"all-linear\"");
  }
  for (const std::int64_t layer : config.layers_to_transform) {
    if (layer < 0) origin.refuse("\"layers_to_transform\" has {}, expected layers counted from 0", layer);
  }
  if (!config.layers_to_transform.empty() && !by_name) {
    origin.refuse("\"layers_to_transform\" cannot be used with \"target_modules\" {}, expected a list of names there",
                  quote(std::get<std::string>(config.target_modules)));
  }
  if (!config.layers_pattern.empty() && config.layers_to_transform.empty()) {
    origin.refuse("\"layers_pattern\" is given without \"layers_to_transform\"");
  }
}

void sort_patterns(LoraConfig& config) {
  std::ranges::sort(config.rank_pattern, {}, &std::pair<std::string, std::int64_t>::first);
  std::ranges::sort(config.alpha_pattern, {}, &std::pair<std::string, double>::first);
}

}  // namespace lora

void validate(const LoraConfig& config) { lora::validate(config, lora::caller()); }

LoraConfig parse_lora_config(std::string_view text, std::string_view where) {
  if (text.starts_with("\xEF\xBB\xBF")) text.remove_prefix(3);
  const Json object = parse_json(text, where);
  refuse_unsupported(object, where);
  PatternKeys keys(text, where);
  keys.parse();

  LoraConfig config;
  config.rank = get_or<std::int64_t>(object, "r", 8, where);
  config.alpha = get_or<double>(object, "lora_alpha", 8, where);
  config.use_rslora = get_or<bool>(object, "use_rslora", false, where);
  config.dropout = get_or<double>(object, "lora_dropout", 0, where);
  config.target_modules = read_selector(object, "target_modules", where);
  config.exclude_modules = read_selector(object, "exclude_modules", where);
  config.layers_to_transform = read_one_or_more<std::int64_t>(object, "layers_to_transform", where);
  config.layers_pattern = read_one_or_more<std::string>(object, "layers_pattern", where);
  config.rank_pattern = read_patterns<std::int64_t>(keys, object, "rank_pattern", where);
  config.alpha_pattern = read_patterns<double>(keys, object, "alpha_pattern", where);
  config.base_model_name_or_path = get_optional<std::string>(object, "base_model_name_or_path", where);
  config.revision = get_optional<std::string>(object, "revision", where);
  config.task_type = get_optional<std::string>(object, "task_type", where);
  config.inference_mode = get_or<bool>(object, "inference_mode", false, where);
  config.init_lora_weights = read_init(object, where);
  if (const auto version = get_optional<std::string>(object, "peft_version", where)) config.peft_version = version;
  if (const auto at = object.find("auto_mapping"); at != object.end()) config.auto_mapping = dump_json_line(*at);
  lora::validate(config, Origin{std::string(where), ErrorCode::format});
  return config;
}

std::string dump_lora_config(const LoraConfig& config) {
  validate(config);
  Json rank_pattern = Json::object();
  for (const auto& [key, rank] : config.rank_pattern) rank_pattern[key] = rank;
  Json alpha_pattern = Json::object();
  for (const auto& [key, alpha] : config.alpha_pattern) alpha_pattern[key] = alpha_to_json(alpha);

  Json object;
  for (const auto* key :
       {"alora_invocation_tokens", "arrow_config", "corda_config", "eva_config", "kasa_config", "layer_replication",
        "lora_ga_config", "megatron_config", "modules_to_save", "monteclora_config", "target_parameters",
        "trainable_token_indices", "use_bdlora", "velora_config"}) {
    object[key] = nullptr;
  }
  for (const auto* key : {"ensure_weight_tying", "fan_in_fan_out", "lora_bias", "use_dora", "use_qalora"}) {
    object[key] = false;
  }
  object["alpha_pattern"] = std::move(alpha_pattern);
  object["auto_mapping"] = parse_json(config.auto_mapping, "[lora] auto_mapping");
  object["base_model_name_or_path"] = to_json(config.base_model_name_or_path);
  object["bias"] = "none";
  object["exclude_modules"] = to_json(config.exclude_modules, true);
  object["inference_mode"] = config.inference_mode;
  object["init_lora_weights"] = std::visit([](const auto& value) { return Json(value); }, config.init_lora_weights);
  object["layers_pattern"] = list_or_null(config.layers_pattern);
  object["layers_to_transform"] = list_or_null(config.layers_to_transform);
  object["loftq_config"] = Json::object();
  object["lora_alpha"] = alpha_to_json(config.alpha);
  object["lora_dropout"] = config.dropout;
  object["megatron_core"] = "megatron.core";
  object["peft_type"] = "LORA";
  object["peft_version"] = to_json(config.peft_version);
  object["qalora_group_size"] = 16;
  object["r"] = config.rank;
  object["rank_pattern"] = std::move(rank_pattern);
  object["revision"] = to_json(config.revision);
  object["target_modules"] = to_json(config.target_modules, false);
  object["task_type"] = to_json(config.task_type);
  object["use_rslora"] = config.use_rslora;
  return dump_json(object);
}

}  // namespace wick
