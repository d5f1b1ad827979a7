#include <algorithm>
#include <map>

#include "cli/cli.h"
#include "core/fail.h"
#include "io/json.h"
#include "wick/safetensors.h"

namespace wick::cli {
namespace {

struct Options {
  std::string path;
  bool tensors = false;
  bool json = false;
};

struct Totals {
  std::int64_t tensors = 0;
  std::int64_t parameters = 0;
  std::size_t bytes = 0;
  std::map<std::string, std::int64_t> dtypes;  // parameters by dtype
};

Totals total(const std::vector<SafetensorsEntry>& entries) {
  Totals t;
  for (const SafetensorsEntry& entry : entries) {
    std::int64_t count = 1;
    for (const std::int64_t extent : entry.shape) count *= extent;  // checked when the file was opened
    ++t.tensors;
    t.parameters += count;
    t.bytes += entry.bytes.size();
    t.dtypes[entry.dtype] += count;
  }
  return t;
}

Json describe_tensors(const std::vector<SafetensorsEntry>& entries) {
  Json list = Json::array();
  for (const SafetensorsEntry& e : entries) {
    list.push_back({{"name", e.name}, {"dtype", e.dtype}, {"shape", e.shape}, {"bytes", e.bytes.size()}});
  }
  return list;
}

Json weights_json(const std::vector<SafetensorsEntry>& entries, bool tensors) {
  const Totals t = total(entries);
  Json json = {{"tensors", t.tensors}, {"parameters", t.parameters}, {"bytes", t.bytes}, {"dtypes", t.dtypes}};
  if (tensors) json["tensor_list"] = describe_tensors(entries);
  return json;
}

Json model_json(const std::filesystem::path& folder, bool tensors) {
  const ModelConfig c = ModelConfig::from_folder(folder);
  std::vector<SafetensorsEntry> entries;
  const ShardedSafetensors files = ShardedSafetensors::open(folder);
  for (const SafetensorsFile& file : files.files())
    entries.insert(entries.end(), file.entries().begin(), file.entries().end());
  const std::int64_t window =
      c.sliding_window.empty() ? 0 : *std::max_element(c.sliding_window.begin(), c.sliding_window.end());
  return {{"kind", "model"},
          {"architecture", to_string(c.architecture)},
          {"vocab_size", c.vocab_size},
          {"hidden_size", c.hidden_size},
          {"intermediate_size", c.intermediate_size},
          {"num_hidden_layers", c.num_hidden_layers},
          {"num_attention_heads", c.num_attention_heads},
          {"num_key_value_heads", c.num_key_value_heads},
          {"head_dim", c.head_dim},
          {"max_position_embeddings", c.max_position_embeddings},
          {"rope_theta", c.rope.theta},
          {"sliding_window", window},
          {"tie_word_embeddings", c.tie_word_embeddings},
          {"eos_token_ids", c.eos_token_ids},
          {"parameters", c.parameter_count()},
          {"files", files.files().size()},
          {"weights", weights_json(entries, tensors)}};
}

Json adapter_json(const std::filesystem::path& folder, bool tensors) {
  const std::filesystem::path config_file = folder / "adapter_config.json";
  const LoraConfig c = parse_lora_config(read_json_file(config_file).dump(), config_file.string());
  const SafetensorsFile file = SafetensorsFile::open(folder / "adapter_model.safetensors");
  Json targets;
  std::visit([&](const auto& selector) { targets = selector; }, c.target_modules);
  return {{"kind", "adapter"},
          {"rank", c.rank},
          {"alpha", c.alpha},
          {"use_rslora", c.use_rslora},
          {"dropout", c.dropout},
          {"target_modules", targets},
          {"base_model_name_or_path", c.base_model_name_or_path ? Json(*c.base_model_name_or_path) : Json()},
          {"weights", weights_json(file.entries(), tensors)}};
}

Json file_json(const std::filesystem::path& path, bool tensors) {
  const SafetensorsFile file = SafetensorsFile::open(path);
  return {{"kind", "safetensors"}, {"metadata", file.metadata()}, {"weights", weights_json(file.entries(), tensors)}};
}

void print_text(const Json& json) {
  for (const auto& [key, value] : json.items()) {
    if (key == "weights") continue;
    print(fmt::format("{:26} {}\n", key, value.is_string() ? value.get<std::string>() : value.dump()));
  }
  const Json& weights = json["weights"];
  print(fmt::format("{:26} {} tensors, {} parameters, {:.1f} MB, {}\n", "weights", weights["tensors"].dump(),
                    weights["parameters"].dump(), weights["bytes"].get<double>() / 1e6, weights["dtypes"].dump()));
  if (!weights.contains("tensor_list")) return;
  for (const Json& t : weights["tensor_list"]) {
    print(fmt::format("  {:6} {:18} {}\n", t["dtype"].get<std::string>(), t["shape"].dump(),
                      t["name"].get<std::string>()));
  }
}

void run(const Options& options) {
  const std::filesystem::path path = options.path;
  Json json;
  if (!std::filesystem::is_directory(path)) {
    json = file_json(path, options.tensors);
  } else if (std::filesystem::exists(path / "adapter_config.json")) {
    json = adapter_json(path, options.tensors);
  } else {
    json = model_json(path, options.tensors);
  }
  if (options.json) {
    print(dump_json_line(json) + "\n");
  } else {
    print_text(json);
  }
}

}  // namespace

void add_info(CLI::App& app) {
  CLI::App* verb = app.add_subcommand("info", "what is in a model folder, an adapter folder or a safetensors file");
  const auto options = std::make_shared<Options>();
  verb->add_option("path", options->path, "model folder, adapter folder or .safetensors file")
      ->required()
      ->check(not_empty());
  verb->add_flag("--tensors", options->tensors, "list every tensor");
  verb->add_flag("--json", options->json, "print one JSON object");
  verb->footer(help_footer("Example: wick info DIR --tensors"));
  verb->callback([options] { run(*options); });
}

}  // namespace wick::cli
