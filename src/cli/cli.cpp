#include "cli/cli.h"

#include <cmath>
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

// The whole text as a number; nothing for infinity, NaN and what is none.
std::optional<double> finite(const std::string& text) {
  char* end = nullptr;
  const double value = std::strtod(text.c_str(), &end);
  if (end == text.c_str() || *end != 0 || !std::isfinite(value)) return std::nullopt;
  return value;
}

// A config.json that cannot be read is refused where the model is loaded.
bool has_weights_of_16_bits(const std::filesystem::path& folder) {
  try {
    const Json config = read_json_file(folder / "config.json");
    for (const char* key : {"dtype", "torch_dtype"}) {
      const auto found = config.is_object() ? config.find(key) : config.end();
      if (found != config.end() && found->is_string()) return *found == "bfloat16" || *found == "float16";
    }
  } catch (const Error&) {
  }
  return false;
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
    if (stop_requested) fail(ErrorCode::interrupted, "interrupted");  // a signal ends a write that waits
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

CLI::Validator positive() {
  const auto check = [](const std::string& text) {
    return finite(text).value_or(0) > 0 ? std::string() : "\"" + text + "\" is no number above 0";
  };
  return {check, "POSITIVE"};
}

CLI::Validator unsigned_number() {
  const auto check = [](const std::string& text) {
    const bool good = !text.empty() && text.find_first_not_of("0123456789") == std::string::npos;
    return good ? std::string() : "\"" + text + "\" is no whole number of 0 or more";
  };
  return {check, ""};
}

CLI::Validator probability() {
  const auto check = [](const std::string& text) {
    const double value = finite(text).value_or(-1);
    return value >= 0 && value < 1 ? std::string() : "\"" + text + "\" is not from 0 to below 1";
  };
  return {check, ""};
}

CLI::Validator not_empty() {
  return {[](const std::string& text) { return text.empty() ? std::string("is empty") : std::string(); }, ""};
}

std::string help_footer(const std::string& text) {
  return text + (text.empty() ? "" : "\n\n") +
         "`wick VERB --help` shows the options of a verb. Exit codes: 0 ok, 1 failure, 2 usage, 3 bad input,\n"
         "4 out of memory, 5 diverged, 130 interrupted.";
}

void ModelOptions::add_to(CLI::App& verb, bool with_adapter) {
  verb.add_option("--model", model, "Hugging Face model folder")->required()->check(not_empty())->type_name("DIR");
  if (with_adapter)
    verb.add_option("--adapter-path", adapter_path, "adapter in PEFT format to apply")->type_name("DIR");
  verb.add_option("--dtype", dtype, "dtype of the computation; auto: bf16 on a GPU for weights of 16 bits, else f32")
      ->check(CLI::IsMember({"auto", "f32", "bf16"}))
      ->capture_default_str();
  verb.add_option("--device", device, "cpu, cuda (cuda:1, ...), or auto: a GPU where there is one")
      ->capture_default_str();
}

LoadOptions ModelOptions::load_options() const {
  const Device on = device_from_string(device);
  if (dtype != "auto") return {.dtype = dtype_from_string(dtype), .device = on};
  const bool narrow = on.type != DeviceType::cpu && has_weights_of_16_bits(model);
  return {.dtype = narrow ? DType::bf16 : DType::f32, .device = on};
}

std::string computing_in(DType dtype, Device device) {
  return fmt::format("{} on {}", to_string(dtype), device.type == DeviceType::cpu ? "the CPU" : to_string(device));
}

LoraLayout lora_layout(const std::string& name, Device device) {
  if (name == "auto") return device.type == DeviceType::cpu ? LoraLayout::separate : LoraLayout::bordered;
  return name == "bordered" ? LoraLayout::bordered : LoraLayout::separate;
}

LoadedModel load_model(const ModelOptions& options) {
  LoadedModel loaded{Decoder::load(options.model, options.load_options()), nullptr};
  if (!options.adapter_path.empty()) {
    const std::vector<ModuleInfo>& modules = loaded.decoder.linear_modules();
    loaded.adapter =
        std::make_shared<const Adapter>(load_adapter(options.adapter_path, modules), modules, loaded.decoder.device());
    loaded.decoder.attach(loaded.adapter);
  }
  return loaded;
}

std::optional<Tokenizer> load_tokenizer(const std::filesystem::path& folder) {
  const std::filesystem::path file = folder / "tokenizer.json";
  if (!std::filesystem::exists(file)) return std::nullopt;
  return Tokenizer::from_file(file, {.truncate = false});
}

TriedTokenizer try_tokenizer(const std::filesystem::path& folder) {
  try {
    return {load_tokenizer(folder), ""};
  } catch (const Error& error) {
    return {std::nullopt, error.what()};
  }
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
