#pragma once

#include <cstddef>
#include <string>

namespace wick {

/// The machine as the CPU backend sees it.
struct CpuInfo {
  std::string name;  ///< "Intel(R) Xeon(R) ..."
  int threads = 1;   ///< that OpenMP will use
  std::size_t memory_bytes = 0;
  std::string simd;    ///< the instruction set that our kernels were chosen for: "AVX3", "AVX2", ...
  std::string bf16;    ///< how oneDNN multiplies bf16: "amx", "avx512_bf16", "emulated"
  std::string onednn;  ///< version
};
CpuInfo cpu_info();

}  // namespace wick
