#include "backend/cuda/libraries.h"

#include "backend/cuda/cublaslt.h"
#include "core/fail.h"

namespace wick::cuda {
namespace {

// "9.10.2" of 91002.
std::string dotted(std::size_t version) {
  return fmt::format("{}.{}.{}", version / 10000, version / 100 % 100, version % 100);
}

Backend::Library cudnn_library() {
  std::string reason;
  void* library = open_library({"libcudnn.so.9"}, reason);
  if (library == nullptr) return {"cuDNN", false, reason};
  const auto version = reinterpret_cast<std::size_t (*)()>(symbol(library, "cudnnGetVersion"));
  const std::size_t found = version();
  if (found >= kOldestCudnn) return {"cuDNN", true, dotted(found)};
  return {"cuDNN", false, fmt::format("{} is too old, {} or newer is needed", dotted(found), dotted(kOldestCudnn))};
}

Backend::Library nccl_library() {
  std::string reason;
  void* library = open_library({"libnccl.so.2"}, reason);
  if (library == nullptr) return {"NCCL", false, reason};
  const auto get_version = reinterpret_cast<int (*)(int*)>(symbol(library, "ncclGetVersion"));
  int version = 0;
  if (get_version(&version) != 0) return {"NCCL", false, "ncclGetVersion fails"};
  return {"NCCL", true, dotted(static_cast<std::size_t>(version))};
}

}  // namespace

std::vector<Backend::Library> libraries() {
  const CublasLt& cublaslt = CublasLt::get();
  return {{"cuBLASLt", cublaslt.available(), cublaslt.text()}, cudnn_library(), nccl_library()};
}

}  // namespace wick::cuda
