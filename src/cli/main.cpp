#include <exception>
#include <filesystem>
#include <new>
#include <string>
#include <vector>

#include "cli/cli.h"
#include "wick/error.h"
#include "wick/ops.h"
#include "wick/version.h"

namespace {

int exit_code(wick::ErrorCode code) {
  using wick::ErrorCode;
  switch (code) {
    case ErrorCode::invalid_argument:
      return wick::cli::usage;
    case ErrorCode::format:
    case ErrorCode::io:
    case ErrorCode::unsupported:
      return wick::cli::bad_input;
    case ErrorCode::out_of_memory:
      return wick::cli::out_of_memory;
    case ErrorCode::diverged:
      return wick::cli::diverged;
    case ErrorCode::interrupted:
      return wick::cli::interrupted;
    case ErrorCode::device:
      return wick::cli::failure;
  }
  return wick::cli::failure;
}

// What is wrong with the command line, and which help shows it right.
std::string describe(const CLI::ParseError& error, const CLI::App& app) {
  const std::vector<const CLI::App*> verbs = app.get_subcommands([](const CLI::App* verb) { return verb->parsed(); });
  const std::string verb = verbs.empty() ? "" : verbs.front()->get_name();
  // What is unknown comes before what is missing: it is often the same thing, misspelt.
  const std::vector<std::string> unknown = app.remaining(true);
  std::string message = error.what();
  if (!unknown.empty()) {
    const bool option = unknown.front().starts_with('-');
    message = std::string("unknown ") + (option ? "option " : verb.empty() ? "verb " : "argument ") + unknown.front();
  } else if (verb.empty() && dynamic_cast<const CLI::RequiredError*>(&error) != nullptr) {
    message = "a verb is required";
  }
  return (verb.empty() ? message + " (see wick --help)" : verb + ": " + message + " (see wick " + verb + " --help)");
}

int fail_with(const std::string& message, int code) {
  wick::cli::print_note("error: " + wick::cli::one_line(message));
  return code;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("wick: fine-tune transformer models with LoRA, and run them.", "wick");
  app.set_version_flag("--version", std::string("wick ") + wick::kVersion);
  app.require_subcommand(1);
  app.fallthrough();
  app.add_flag_callback(
      "--no-fused", [] { wick::set_fused(false); }, "run every op as its composite (as WICK_FUSED=0)");
  app.footer(
      "`wick VERB --help` shows the options of a verb. Exit codes: 0 ok, 1 failure, 2 usage, 3 bad input,\n"
      "4 out of memory, 5 diverged, 130 interrupted.");
  wick::cli::add_train(app);
  wick::cli::add_generate(app);
  wick::cli::add_score(app);
  wick::cli::add_embed(app);
  wick::cli::add_search(app);
  wick::cli::add_fuse(app);
  wick::cli::add_tokenize(app);
  wick::cli::add_info(app);
  wick::cli::add_devices(app);
  wick::cli::add_bench(app);
  wick::set_fallback_listener([](const std::string& message) { wick::cli::print_note("note: " + message); });
  try {
    app.parse(argc, argv);
    return wick::cli::ok;
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help, --version
    return fail_with(describe(error, app), wick::cli::usage);
  } catch (const wick::Error& error) {
    return fail_with(error.what(), exit_code(error.code()));
  } catch (const std::bad_alloc&) {
    return fail_with("out of memory", wick::cli::out_of_memory);
  } catch (const std::filesystem::filesystem_error& error) {
    return fail_with(error.what(), wick::cli::bad_input);
  } catch (const std::exception& error) {
    return fail_with(error.what(), wick::cli::failure);
  }
}
