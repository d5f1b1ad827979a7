#include "cli/cli.h"

#include <csignal>
#include <cstdio>
#include <cstdlib>

#include "core/fail.h"
#include "io/json.h"

namespace wick::cli {

std::atomic<bool> stop_requested{false};

namespace {

extern "C" void on_signal(int) {
  if (stop_requested.exchange(true)) std::_Exit(interrupted);
}

}  // namespace

void install_signal_handlers() {
  struct sigaction action = {};
  action.sa_handler = on_signal;
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

void print(const std::string& text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0) {
    fail(ErrorCode::io, "cannot write to stdout");
  }
}

std::string one_line(const std::string& text) {
  std::string out;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    out += byte < 0x20 || byte == 0x7f ? fmt::format("\\x{:02x}", byte) : std::string(1, c);
  }
  return out;
}

void print_note(const std::string& text) {
  std::fputs(text.c_str(), stderr);
  std::fputc('\n', stderr);
}

void ModelOptions::add_to(CLI::App& verb, bool with_adapter) {
  verb.add_option("--model", model, "Hugging Face model folder")->required()->type_name("DIR");
  if (with_adapter)
    verb.add_option("--adapter-path", adapter_path, "adapter in PEFT format to apply")->type_name("DIR");
  verb.add_option("--dtype", dtype, "dtype of the computation")
      ->check(CLI::IsMember({"f32", "bf16"}))
      ->capture_default_str();
  verb.add_option("--device", device, "cpu, cuda (cuda:1, ...), or auto: a GPU where there is one")
      ->capture_default_str();
}

LoraLayout lora_layout(const std::string& name, Device device) {
  if (name == "auto") return device.type == DeviceType::cpu ? LoraLayout::separate : LoraLayout::bordered;
  return name == "bordered" ? LoraLayout::bordered : LoraLayout::separate;
}

LoadedModel load_model(const ModelOptions& options) {
  const Device device = device_from_string(options.device);
  LoadedModel loaded{Decoder::load(options.model, {.dtype = dtype_from_string(options.dtype), .device = device}),
                     nullptr};
  if (!options.adapter_path.empty()) {
    const std::vector<ModuleInfo>& modules = loaded.decoder.linear_modules();
    loaded.adapter = std::make_shared<const Adapter>(load_adapter(options.adapter_path, modules), modules, device);
    loaded.decoder.attach(loaded.adapter);
  }
  return loaded;
}

std::optional<Tokenizer> load_tokenizer(const std::filesystem::path& folder) {
  const std::filesystem::path file = folder / "tokenizer.json";
  if (!std::filesystem::exists(file)) return std::nullopt;
  return Tokenizer::from_file(file, {.truncate = false});
}

std::vector<TokenId> parse_ids(const std::string& text, const std::string& option) {
  try {
    const Json json = Json::object({{"ids", parse_json(text, option)}});
    return get<std::vector<TokenId>>(json, "ids", option);
  } catch (const Error& error) {
    fail(ErrorCode::invalid_argument, "{}", error.what());
  }
}

void check_ids(const std::vector<TokenId>& ids, const ModelConfig& config, const std::string& where, ErrorCode code) {
  if (ids.empty()) fail(code, "{} has no tokens", where);
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || ids[i] >= config.vocab_size) {
      fail(code, "{}: id {} is {}, expected 0 to {}", where, i, ids[i], config.vocab_size - 1);
    }
  }
}

}  // namespace wick::cli
