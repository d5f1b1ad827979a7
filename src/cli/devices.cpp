
#include "backend/backend.h"
#include "backend/cpu/cpu_info.h"
#include "cli/cli.h"
#include "core/fail.h"
#include "io/json.h"

namespace wick::cli {
namespace {

// The GPUs and what CUDA needs; where there is none, why.
Json cuda_json(const Backend& cuda) {
  Json devices = Json::array();
  int index = 0;
  for (const Backend::Description& d : cuda.describe()) {
    devices.push_back({{"type", "cuda"},
                       {"index", index++},
                       {"name", d.name},
                       {"compute_capability", d.capability},
                       {"multiprocessors", d.multiprocessors},
                       {"memory_bytes", d.memory_bytes},
                       {"missing", d.missing}});
  }
  return devices;
}

void run(bool json) {
  const CpuInfo cpu = cpu_info();
  const Backend* cuda = cuda_backend();
  const std::string missing = cuda == nullptr ? "not built into this program" : cuda->missing({DeviceType::cuda, 0});
  if (json) {
    Json devices = {{{"type", "cpu"},
                     {"name", cpu.name},
                     {"threads", cpu.threads},
                     {"memory_bytes", cpu.memory_bytes},
                     {"simd", cpu.simd},
                     {"bf16", cpu.bf16},
                     {"libraries", {{"onednn", cpu.onednn}}}}};
    Json libraries = Json::object();
    if (cuda != nullptr) {
      for (const Json& device : cuda_json(*cuda)) devices.push_back(device);
      for (const Backend::Library& l : cuda->libraries()) libraries[l.name] = {{"there", l.there}, {"text", l.text}};
    }
    print(dump_json_line({{"devices", devices}, {"cuda", {{"missing", missing}, {"libraries", libraries}}}}) + "\n");
    return;
  }
  print(fmt::format(
      "cpu     {}\n        {} threads, {:.1f} GiB memory, SIMD {}, bf16 matrix products {}\n        oneDNN {}\n",
      cpu.name, cpu.threads, static_cast<double>(cpu.memory_bytes) / (1 << 30), cpu.simd, cpu.bf16, cpu.onednn));
  if (!missing.empty()) print(fmt::format("cuda    none: {}\n", missing));
  if (cuda == nullptr) return;
  int index = 0;
  for (const Backend::Description& d : cuda->describe()) {
    print(fmt::format("cuda:{}  {}\n        compute capability {}, {} multiprocessors, {:.1f} GiB memory\n", index++,
                      d.name, d.capability, d.multiprocessors, static_cast<double>(d.memory_bytes) / (1 << 30)));
    if (!d.missing.empty()) print(fmt::format("        cannot be used: {}\n", d.missing));
  }
  for (const Backend::Library& l : cuda->libraries()) {
    print(fmt::format("        {} {}\n", l.name, l.there ? l.text : "is missing: " + l.text));
  }
}

}  // namespace

void add_devices(CLI::App& app) {
  CLI::App* verb = app.add_subcommand("devices", "what this program can compute on, here");
  const auto json = std::make_shared<bool>(false);
  verb->add_flag("--json", *json, "print one JSON object");
  verb->footer(help_footer("Example: wick devices --json"));
  verb->callback([json] { run(*json); });
}

}  // namespace wick::cli
