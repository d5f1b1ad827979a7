
#include "backend/cpu/cpu_info.h"
#include "cli/cli.h"
#include "core/fail.h"
#include "io/json.h"

namespace wick::cli {
namespace {

void run(bool json) {
  const CpuInfo cpu = cpu_info();
  if (json) {
    print(dump_json_line({{"devices",
                           {{{"type", "cpu"},
                             {"name", cpu.name},
                             {"threads", cpu.threads},
                             {"memory_bytes", cpu.memory_bytes},
                             {"simd", cpu.simd},
                             {"bf16", cpu.bf16},
                             {"libraries", {{"onednn", cpu.onednn}}}}}}}) +
          "\n");
    return;
  }
  print(fmt::format(
      "cpu     {}\n        {} threads, {:.1f} GiB memory, SIMD {}, bf16 matrix products {}\n        oneDNN {}\n",
      cpu.name, cpu.threads, static_cast<double>(cpu.memory_bytes) / (1 << 30), cpu.simd, cpu.bf16, cpu.onednn));
}

}  // namespace

void add_devices(CLI::App& app) {
  CLI::App* verb = app.add_subcommand("devices", "what this program can compute on, here");
  const auto json = std::make_shared<bool>(false);
  verb->add_flag("--json", *json, "print one JSON object");
  verb->callback([json] { run(*json); });
}

}  // namespace wick::cli
