#pragma once

#include <CLI/CLI.hpp>
#include <atomic>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "wick/adapter.h"
#include "wick/error.h"
#include "wick/model.h"
#include "wick/tokenizer.h"

namespace wick::cli {

/// Exit codes of the program.
enum ExitCode : int {
  ok = 0,
  failure = 1,
  usage = 2,
  bad_input = 3,
  out_of_memory = 4,
  diverged = 5,
  interrupted = 130
};

/// Each verb adds its subcommand, whose callback does the work. A callback that throws ends the program with the code
/// of its error; one that returns ends it with 0.
void add_train(CLI::App& app);
void add_generate(CLI::App& app);
void add_score(CLI::App& app);
void add_embed(CLI::App& app);
void add_search(CLI::App& app);
void add_fuse(CLI::App& app);
void add_tokenize(CLI::App& app);
void add_info(CLI::App& app);
void add_devices(CLI::App& app);
void add_bench(CLI::App& app);

/// Checks of options: a number above 0 (NaN and infinity are none), a whole number without a sign, a path that is not
/// empty (as an unset variable of a shell is).
CLI::Validator positive();
CLI::Validator unsigned_number();
CLI::Validator probability();  ///< from 0 to below 1
CLI::Validator not_empty();

/// What stands below a verb's options: `text`, then what holds for all verbs.
std::string help_footer(const std::string& text);

/// Options that several verbs share.
struct ModelOptions {
  std::string model;
  std::string adapter_path;
  std::string dtype = "auto";
  std::string device = "auto";

  /// --model (required), --adapter-path, --dtype, --device
  void add_to(CLI::App& verb, bool with_adapter = true);
  /// Where and in what to compute. "auto" is bf16 on a GPU if config.json says that the weights have 16 bits, else f32.
  LoadOptions load_options() const;
};

/// "bf16 on cuda:0"
std::string computing_in(DType dtype, Device device);

/// "auto" is bordered on an accelerator, where one GEMM beats three, and separate on a CPU, which packs its weights.
LoraLayout lora_layout(const std::string& name, Device device);

struct LoadedModel {
  Decoder decoder;
  std::shared_ptr<const Adapter> adapter;  ///< null without --adapter-path
};
LoadedModel load_model(const ModelOptions& options);
/// The folder's tokenizer.json, or nothing where it has none.
std::optional<Tokenizer> load_tokenizer(const std::filesystem::path& folder);
struct TriedTokenizer {
  std::optional<Tokenizer> tokenizer = {};
  std::string problem = {};  ///< why a file that is there cannot be used
};
/// load_tokenizer() where token ids may be all that is needed. Never throws for the file.
TriedTokenizer try_tokenizer(const std::filesystem::path& folder);

/// "[5, 6, 7]" as ids. Error(invalid_argument) naming the option.
std::vector<TokenId> parse_ids(const std::string& text, const std::string& option);

/// Refuses an empty list and ids outside the model's vocabulary: Error(code) naming `where` they came from.
void check_ids(const std::vector<TokenId>& ids, const ModelConfig& config, const std::string& where, ErrorCode code);

/// Set by SIGINT and SIGTERM once install_signal_handlers() ran; a second signal ends the program at once.
extern std::atomic<bool> stop_requested;
void install_signal_handlers();

void print(const std::string& text);  ///< results: to stdout, flushed. Error(io) when it is closed
/// The text with control characters written as \xNN: names from files may hold line ends and escape codes.
std::string one_line(const std::string& text);
void print_note(const std::string& text);  ///< words for the eye: to stderr, with a newline

}  // namespace wick::cli
