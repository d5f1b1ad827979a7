#include <exception>
#include <new>

#include "cli/cli.h"
#include "wick/error.h"
#include "wick/ops.h"
#include "wick/version.h"

namespace {

int exit_code(wick::ErrorCode code) {
  using wick::ErrorCode;
  switch (code) {
    case ErrorCode::invalid_argument: return wick::cli::usage;
    case ErrorCode::format:
    case ErrorCode::io:
    case ErrorCode::unsupported: return wick::cli::bad_input;
    case ErrorCode::out_of_memory: return wick::cli::out_of_memory;
    case ErrorCode::diverged: return wick::cli::diverged;
    case ErrorCode::interrupted: return wick::cli::interrupted;
    case ErrorCode::device: return wick::cli::failure;
  }
  return wick::cli::failure;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("wick: fine-tune transformer models with LoRA, and run them.");
  app.set_version_flag("--version", std::string("wick ") + wick::kVersion);
  app.require_subcommand(1);
  app.fallthrough();
  app.add_flag_callback("--no-fused", [] { wick::set_fused(false); }, "run every op as its composite (as WICK_FUSED=0)");
  app.footer(
      "`wick VERB --help` shows the options of a verb. Exit codes: 0 ok, 1 failure, 2 usage, 3 bad input,\n"
      "4 out of memory, 5 diverged, 130 interrupted.");
  wick::cli::add_train(app);
  wick::cli::add_generate(app);
  wick::cli::add_score(app);
  wick::cli::add_fuse(app);
  wick::cli::add_tokenize(app);
  wick::cli::add_info(app);
  wick::cli::add_devices(app);
  wick::set_fallback_listener([](const std::string& message) { wick::cli::print_note("note: " + message); });
  try {
    app.parse(argc, argv);
    return wick::cli::ok;
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? wick::cli::ok : wick::cli::usage;
  } catch (const wick::Error& error) {
    wick::cli::print_note(std::string("error: ") + error.what());
    return exit_code(error.code());
  } catch (const std::bad_alloc&) {
    wick::cli::print_note("error: out of memory");
    return wick::cli::out_of_memory;
  } catch (const std::exception& error) {
    wick::cli::print_note(std::string("error: ") + error.what());
    return wick::cli::failure;
  }
}
