#include "cli/profile_option.h"

#include "cli/cli.h"
#include "core/fail.h"
#include "io/atomic_file.h"

namespace wick::cli {
namespace {

// Said at once, and not after hours of training.
std::string why_not_written(const std::string& path) {
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
                      " by kernel: a table on standard error, and a timeline\n"
                      "in FILE (JSON) for ui.perfetto.dev; a GPU then works launch by launch")
      ->check(why_not_written)
      ->type_name("FILE");
}

void report_profile(const std::string& path, std::span<const KernelRecord> records, Device device, DType dtype,
                    const std::string& process) {
  if (records.empty()) return print_note("profile: the run was over before it began, nothing is written");
  const Ceilings ceilings = measure_ceilings(device, dtype);
  write_chrome_trace(path, records, ceilings, process);
  print_note(profile_table(records, ceilings) + fmt::format("timeline: {}", path));
}

}  // namespace wick::cli
