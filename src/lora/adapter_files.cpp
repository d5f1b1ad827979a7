#include <algorithm>

#include "io/atomic_file.h"
#include "io/mapped_file.h"
#include "io/quote.h"
#include "lora/internal.h"
#include "wick/safetensors.h"

namespace wick {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kConfigName = "adapter_config.json";
constexpr std::string_view kWeightsName = "adapter_model.safetensors";
constexpr std::string_view kPrefix = "base_model.model.";
constexpr std::size_t kMaxConfig = std::size_t{16} << 20;

std::string key_of(std::string_view module, char factor) {
  return fmt::format("{}{}.lora_{}.weight", kPrefix, module, factor);
}

struct Key {
  std::string_view module;
  char factor;  // 'A' or 'B'
};

// The module and factor that a tensor's name stands for. PEFT also loads names that kept the adapter's name "default".
std::optional<Key> parse_key(std::string_view name) {
  if (!name.starts_with(kPrefix)) return std::nullopt;
  name.remove_prefix(kPrefix.size());
  for (const char factor : {'A', 'B'}) {
    for (const std::string_view form : {".lora_{}.weight", ".lora_{}.default.weight"}) {
      const std::string suffix = fmt::format(fmt::runtime(form), factor);
      if (name.ends_with(suffix)) return Key{name.substr(0, name.size() - suffix.size()), factor};
    }
  }
  return std::nullopt;
}

// PEFT takes names from the class that it wraps, and one with a head has the encoder a level further down ("bert."):
// that level with its dot, or nothing where the names fit as they are.
template <class Known>
std::string_view extra_level(const SafetensorsFile& file, const Known& known) {
  const auto key = file.entries().empty() ? std::nullopt : parse_key(file.entries().front().name);
  if (!key || known(key->module)) return {};
  const std::size_t end = key->module.find('.') + 1;  // 0 where there is none
  return known(key->module.substr(end)) ? key->module.substr(0, end) : std::string_view();
}

struct Entries {
  const SafetensorsEntry* a = nullptr;
  const SafetensorsEntry* b = nullptr;
};

// "3 keys are missing: x, y, z": at most five of them.
std::string list_keys(const std::vector<std::string>& keys, std::string_view verdict) {
  constexpr std::size_t kShown = 5;
  std::string out = fmt::format("{} {} {}: ", keys.size(), keys.size() == 1 ? "key is" : "keys are", verdict);
  for (std::size_t i = 0; i < std::min(keys.size(), kShown); ++i) out += (i == 0 ? "" : ", ") + quote(keys[i]);
  if (keys.size() > kShown) out += ", ...";
  return out;
}

// The file's tensors by module, which must be two for each target and no others but those of unused modules.
std::map<std::string_view, Entries> match_entries(const SafetensorsFile& file, std::span<const LoraTarget> targets,
                                                  std::span<const ModuleInfo> modules) {
  std::map<std::string_view, Entries> found;
  for (const auto& target : targets) found.try_emplace(target.name);
  const auto is_unused = [&](std::string_view name) {
    return std::ranges::any_of(
        modules, [&](const ModuleInfo& module) { return module.kind == ModuleKind::unused && module.name == name; });
  };
  const std::string_view level = extra_level(file, [&](auto name) { return found.contains(name) || is_unused(name); });

  std::vector<std::string> unexpected;
  for (const auto& entry : file.entries()) {
    auto key = parse_key(entry.name);
    if (key && !key->module.starts_with(level)) key.reset();
    if (key) key->module.remove_prefix(level.size());
    const auto at = key ? found.find(key->module) : found.end();
    if (at == found.end() && key && is_unused(key->module)) continue;
    if (at == found.end()) {
      unexpected.push_back(entry.name);
      continue;
    }
    const SafetensorsEntry*& slot = key->factor == 'A' ? at->second.a : at->second.b;
    if (slot != nullptr) {
      fail(ErrorCode::format, "{}: {} and {} are the same tensor", file.path().string(), quote(slot->name),
           quote(entry.name));
    }
    slot = &entry;
  }
  std::vector<std::string> missing;
  for (const auto& [module, entries] : found) {
    if (entries.a == nullptr) missing.push_back(key_of(module, 'A'));
    if (entries.b == nullptr) missing.push_back(key_of(module, 'B'));
  }
  if (!missing.empty() || !unexpected.empty()) {
    fail(ErrorCode::format, "{}: {}{}{} ({} promises {} tensors, the file has {})", file.path().string(),
         missing.empty() ? "" : list_keys(missing, "missing"), missing.empty() || unexpected.empty() ? "" : "; ",
         unexpected.empty() ? "" : list_keys(unexpected, "unexpected"), kConfigName, 2 * targets.size(),
         file.entries().size());
  }
  return found;
}

Tensor load_factor(const SafetensorsFile& file, const SafetensorsEntry& entry, const LoraTarget& target,
                   std::int64_t rows, std::int64_t columns) {
  const std::string where = fmt::format("{}: {}", file.path().string(), quote(entry.name));
  if (entry.shape != std::vector{rows, columns}) {
    fail(ErrorCode::format, "{} is [{}], expected [{}, {}] (rank {}, a layer from {} to {} features)", where,
         fmt::join(entry.shape, ", "), rows, columns, target.rank, target.in_features, target.out_features);
  }
  if (entry.dtype != "F32" && entry.dtype != "F16" && entry.dtype != "BF16" && entry.dtype != "F64") {
    fail(ErrorCode::unsupported, "{} is {}, expected F32, F16, BF16 or F64", where, entry.dtype);
  }
  // A copy, also of f32: factors are trained in place, and the file may be replaced.
  const Tensor loaded = load_tensor(entry);
  return loaded.dtype() == DType::f32 ? loaded.clone() : loaded.to(DType::f32);
}

LoraConfig read_config(const fs::path& folder) {
  const auto file = MappedFile::open(folder / kConfigName);
  const auto bytes = file->bytes();
  if (bytes.size() > kMaxConfig) {
    fail(ErrorCode::format, "{}: is {} bytes, expected at most {}", file->path().string(), bytes.size(), kMaxConfig);
  }
  return parse_lora_config({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, file->path().string());
}

bool holds(const fs::path& path, std::string_view text) {
  std::error_code ignored;
  if (!fs::is_regular_file(path, ignored)) return false;
  const auto file = MappedFile::open(path);
  const auto bytes = file->bytes();
  return std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size()) == text;
}

// The factors must be what a reader of the config will ask for.
void check_weights(const AdapterWeights& adapter, const lora::Origin& origin) {
  std::vector<ModuleInfo> modules;
  for (const auto& [name, factors] : adapter.modules) {
    for (const Tensor& factor : {factors.a, factors.b}) {
      if (!factor.defined() || factor.rank() != 2 || !is_floating(factor.dtype())) {
        origin.refuse("the factors of {} must be matrices, lora_A [rank, in] and lora_B [out, rank]", quote(name));
      }
    }
    modules.push_back({name, factors.a.size(1), factors.b.size(0), ModuleKind::linear});
  }
  LoraConfig config = adapter.config;
  lora::sort_patterns(config);
  const auto targets = lora::resolve(config, modules, origin);
  if (targets.size() != modules.size()) {
    for (const auto& module : modules) {
      if (std::ranges::none_of(targets, [&](const LoraTarget& target) { return target.name == module.name; })) {
        origin.refuse("there are factors for {}, which the configuration does not select", quote(module.name));
      }
    }
  }
  for (const auto& target : targets) {
    const auto& factors = adapter.modules.at(target.name);
    if (factors.a.size(0) != target.rank || factors.b.size(1) != target.rank) {
      origin.refuse("the factors of {} are {} and {}, expected rank {}", quote(target.name),
                    to_string(factors.a.shape()), to_string(factors.b.shape()), target.rank);
    }
  }
}

}  // namespace

AdapterWeights load_adapter(const fs::path& folder, std::span<const ModuleInfo> modules) {
  AdapterWeights adapter;
  adapter.config = read_config(folder);
  const lora::Origin origin{(folder / kConfigName).string(), ErrorCode::format};
  const auto targets = lora::resolve(adapter.config, modules, origin);

  const fs::path path = folder / kWeightsName;
  std::error_code ignored;
  if (!fs::exists(path, ignored) && fs::exists(folder / "adapter_model.bin", ignored)) {
    fail(ErrorCode::unsupported, "{}: a pickle, which is not supported: expected {}",
         (folder / "adapter_model.bin").string(), kWeightsName);
  }
  const auto file = SafetensorsFile::open(path);
  const auto entries = match_entries(file, targets, modules);
  for (const auto& target : targets) {
    const auto& [a, b] = entries.at(target.name);
    adapter.modules[target.name] = {load_factor(file, *a, target, target.rank, target.in_features),
                                    load_factor(file, *b, target, target.out_features, target.rank)};
  }
  return adapter;
}

void save_adapter(const fs::path& folder, const AdapterWeights& adapter) {
  const lora::Origin origin{folder.string(), ErrorCode::invalid_argument};
  check_weights(adapter, origin);
  const std::string config = dump_lora_config(adapter.config);
  std::vector<SafetensorsEntry> entries;
  for (const auto& [name, factors] : adapter.modules) {
    entries.push_back(make_entry(key_of(name, 'A'), factors.a.to(DType::f32)));
    entries.push_back(make_entry(key_of(name, 'B'), factors.b.to(DType::f32)));
  }

  std::error_code error;
  fs::create_directories(folder, error);
  if (error) fail(ErrorCode::io, "{}: cannot be created: {}", folder.string(), error.message());
  // Without its config an adapter is refused, so the old one goes before the weights can belong to the new one.
  const fs::path config_path = folder / kConfigName;
  const bool same = holds(config_path, config);
  if (!same) {
    fs::remove(config_path, error);
    if (error) fail(ErrorCode::io, "{}: cannot be replaced: {}", config_path.string(), error.message());
  }
  write_safetensors(folder / kWeightsName, entries, {{"format", "pt"}});
  if (!same) write_file_atomically(config_path, config);
}

}  // namespace wick
