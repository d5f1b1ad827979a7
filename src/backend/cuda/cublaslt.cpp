#include "backend/cuda/cublaslt.h"

#include "core/fail.h"

namespace wick::cuda {

const CublasLt& CublasLt::get() {
  static const CublasLt library;
  return library;
}

const CublasLt& CublasLt::needed() {
  if (!get().available()) fail(ErrorCode::device, "[cuda] cuBLASLt is needed: {}", get().reason);
  return get();
}

std::string CublasLt::text() const {
  if (!available()) return reason;
  const std::size_t version = GetVersion();
  return fmt::format("{}.{}.{}", version / 10000, version / 100 % 100, version % 100);
}

void check(cublasStatus_t status, const char* what) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  fail(ErrorCode::device, "[gemm] cuBLASLt, {}: {}", what, CublasLt::get().GetStatusString(status));
}

}  // namespace wick::cuda
