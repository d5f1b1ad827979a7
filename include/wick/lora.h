#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "wick/tensor.h"

/// LoRA adapters (https://arxiv.org/abs/2106.09685) and their files as PEFT 0.21 reads and writes them
/// (https://huggingface.co/docs/peft). An adapted linear layer computes y = W x + scale * B (A x), A [rank, in], B
/// [out, rank].
namespace wick {

/// Names of modules, or one string: a regular expression that must match a whole module name, or "all-linear".
/// An entry of the list selects the module of that name and every module whose name ends in "." + entry.
using ModuleSelector = std::variant<std::vector<std::string>, std::string>;

/// Exceptions by module: KEY is a regular expression, matched as (.*\.)?(KEY)$; the first that matches wins. Files have
/// them sorted by KEY.
template <class T>
using ModulePatterns = std::vector<std::pair<std::string, T>>;

/// What adapter_config.json says of a LoRA adapter. Names are the field's; r, lora_alpha and lora_dropout in the file
/// are rank, alpha and dropout here.
struct LoraConfig {
  std::int64_t rank = 8;    ///< 1 to 65536
  double alpha = 16;        ///< scale = alpha / rank; finite
  bool use_rslora = false;  ///< scale = alpha / sqrt(rank) (https://arxiv.org/abs/2312.03732)
  double dropout = 0;       ///< of what enters A, while training; in [0, 1)
  ModuleSelector target_modules;
  ModuleSelector exclude_modules;                 ///< empty: none; here "all-linear" is a regular expression
  std::vector<std::int64_t> layers_to_transform;  ///< empty: every layer; only with a list of target_modules
  std::vector<std::string> layers_pattern;        ///< what precedes the layer's number ("layers"); empty: anything
  ModulePatterns<std::int64_t> rank_pattern;
  ModulePatterns<double> alpha_pattern;

  // Carried from file to file; nothing here depends on them.
  std::optional<std::string> base_model_name_or_path;
  std::optional<std::string> revision;
  std::optional<std::string> task_type = "CAUSAL_LM";
  bool inference_mode = true;
  std::variant<bool, std::string> init_lora_weights = true;
  std::optional<std::string> peft_version = "0.21.0";
  std::string auto_mapping = "null";  ///< JSON
};

/// Reads the text of an adapter_config.json; `where` names it in messages. What a file leaves out is as PEFT has it
/// (r 8, lora_alpha 8). Error(format) for broken JSON, wrong types, values out of range; Error(unsupported) naming the
/// key for another peft_type, for anything that would change the result and is not here (use_dora, modules_to_save,
/// bias, ...), and for an unknown key whose value is not null, false or empty.
LoraConfig parse_lora_config(std::string_view text, std::string_view where = "adapter_config.json");

/// The text of adapter_config.json, to the byte as PEFT's save_pretrained() writes it. alpha is written as an integer
/// when it is one. Error(invalid_argument) as validate().
std::string dump_lora_config(const LoraConfig& config);

/// Error(invalid_argument) naming the first value that is out of range or contradicts another.
void validate(const LoraConfig& config);

enum class ModuleKind : std::uint8_t {
  linear,       ///< a linear layer
  output_head,  ///< the linear layer that gives the logits: "all-linear" leaves it out
  unused,       ///< a linear layer that no result depends on: never selected, its factors in files are left out
  other,        ///< anything else with a name; selecting it is an error
};

/// A module of a model, as its weights name it: model.layers.0.self_attn.q_proj.
struct ModuleInfo {
  std::string name;
  std::int64_t in_features = 0;
  std::int64_t out_features = 0;
  ModuleKind kind = ModuleKind::linear;
};

/// A module that gets an adapter.
struct LoraTarget {
  std::string name;
  std::int64_t in_features;
  std::int64_t out_features;
  std::int64_t rank;
  double alpha;
  double scale;  ///< alpha / rank, or alpha / sqrt(rank) with use_rslora
};

/// The modules that `config` selects, in the order given, matched as PEFT matches them.
/// Error(invalid_argument): as validate(); nothing is selected (names some modules that exist); layers_to_transform has
/// a layer that does not exist; a regular expression is broken or takes too long. Error(unsupported): a module is
/// selected that is not linear.
std::vector<LoraTarget> resolve_targets(const LoraConfig& config, std::span<const ModuleInfo> modules);

/// The entries of target_modules and exclude_modules that select no module, and the keys of rank_pattern and
/// alpha_pattern that match no selected one, each as `rank_pattern "k_proj"`: likely typing errors, no error to PEFT.
/// Errors as resolve_targets().
std::vector<std::string> unmatched_entries(const LoraConfig& config, std::span<const ModuleInfo> modules);

/// One module's factors, f32.
struct LoraFactors {
  Tensor a;  ///< [rank, in_features]
  Tensor b;  ///< [out_features, rank]
};

struct AdapterWeights {
  LoraConfig config;
  std::map<std::string, LoraFactors> modules;  ///< by module name
};

/// Fresh factors for resolve_targets(config, modules): A uniform in +-1/sqrt(in_features) (Kaiming with a = sqrt(5), as
/// PEFT draws it), B zero. The same seed gives the same values on every machine, and a module's values depend on
/// nothing but the seed, its place among the targets and its shape. Errors as resolve_targets().
AdapterWeights init_adapter(const LoraConfig& config, std::span<const ModuleInfo> modules, std::uint64_t seed);

/// Reads adapter_config.json and adapter_model.safetensors of a PEFT folder; F32, F16, BF16 and F64 become f32. Where
/// all names in the file have one level more in front ("bert.", as in a model with a head), that is left out.
/// Error(io) for a file that is not there or cannot be read. Error(unsupported) as parse_lora_config(), for
/// adapter_model.bin, and for other dtypes. Error(format) when the files are broken, the config selects nothing among
/// `modules`, the tensors are not exactly those that it promises (names them), or a shape is wrong.
AdapterWeights load_adapter(const std::filesystem::path& folder, std::span<const ModuleInfo> modules);

/// Writes both files into `folder`, which is created when missing; other files in it stay. The tensors, converted to
/// f32, are written byte for byte as PEFT writes them. After a crash the folder holds the old adapter or the new one
/// or, when their configs differ, perhaps no adapter_config.json, never a mixture. Error(invalid_argument) when the
/// factors' shapes are not what the config promises or it does not select them all; Error(io) when the system refuses.
void save_adapter(const std::filesystem::path& folder, const AdapterWeights& adapter);

}  // namespace wick
