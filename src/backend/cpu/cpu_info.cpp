#include "backend/cpu/cpu_info.h"

#include <omp.h>
#include <unistd.h>

#include <fstream>
#include <oneapi/dnnl/dnnl.hpp>

#include "core/fail.h"
#include "hwy/highway.h"

namespace wick {
namespace {

std::string cpu_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
  }
  return "unknown";
}

std::string bf16_products() {
  // Each further instruction set of oneDNN's x64 enumeration contains the ones before it.
  const auto isa = static_cast<unsigned>(dnnl::get_effective_cpu_isa());
  const auto has = [isa](dnnl::cpu_isa wanted) {
    return (isa & static_cast<unsigned>(wanted)) == static_cast<unsigned>(wanted);
  };
  if (has(dnnl::cpu_isa::avx512_core_amx)) return "amx";
  if (has(dnnl::cpu_isa::avx512_core_bf16)) return "avx512_bf16";
  return "emulated";
}

}  // namespace

CpuInfo cpu_info() {
  const dnnl_version_t* version = dnnl_version();
  const std::int64_t best = hwy::SupportedTargets() & HWY_TARGETS;
  return {cpu_name(),
          omp_get_max_threads(),
          static_cast<std::size_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<std::size_t>(sysconf(_SC_PAGE_SIZE)),
          hwy::TargetName(best & -best),
          bf16_products(),
          fmt::format("{}.{}.{}", version->major, version->minor, version->patch)};
}

}  // namespace wick
