#include "backend/cuda/cublaslt.h"

#include "backend/cuda/held_memory.h"
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
  const char* const said = CublasLt::get().GetStatusString(status);
  if (status == CUBLAS_STATUS_ALLOC_FAILED) {
    fail(ErrorCode::out_of_memory, "[gemm] cuBLASLt, {}: {}; cuda:{}: {}", what, said, current_device(),
         memory_text(current_device()));
  }
  fail(ErrorCode::device, "[gemm] cuBLASLt, {}: {}", what, said);
}

}  // namespace wick::cuda
