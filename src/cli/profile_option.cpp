#include "cli/profile_option.h"

#include <filesystem>

#include "cli/cli.h"
#include "core/fail.h"
#include "io/atomic_file.h"

namespace wick::cli {
namespace {

// Said at once, and not after hours of training. A folder that is not there yet is made in the end.
std::string why_not_written(const std::string& path) {
  const std::filesystem::path folder = std::filesystem::absolute(path).parent_path();
  std::error_code error;
  if (std::filesystem::status(folder, error).type() == std::filesystem::file_type::not_found) return {};
  try {
    const AtomicFile attempt(path);
    return {};
  } catch (const Error& error) {
    return error.what();
  }
}

}  // namespace

CLI::Option* add_profile_option(CLI::App& verb, std::string& path, const std::string& what) {
  return verb
      .add_option("--profile", path,
                  "profile " + what +
                      ": a table by kernel on standard error, and a\n"
                      "timeline in FILE (JSON) for ui.perfetto.dev")
      ->check(why_not_written)
      ->type_name("FILE");
}

void report_profile(const std::string& path, std::span<const KernelRecord> records, Device device, DType dtype,
                    const std::string& process) {
  if (records.empty()) return print_note("profile: the run was over before it began, nothing is written");
  std::error_code error;
  std::filesystem::create_directories(std::filesystem::absolute(path).parent_path(), error);  // else the file says why
  const Ceilings ceilings = measure_ceilings(device, dtype);
  write_chrome_trace(path, records, ceilings, process);
  print_note(profile_table(records, ceilings) + fmt::format("timeline: {}", path));
}

}  // namespace wick::cli
