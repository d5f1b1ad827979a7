#pragma once

#include <cublasLt.h>

#include <string>

#include "backend/cuda/runtime.h"
#include "wick/dtype.h"

namespace wick::cuda {

/// cuBLASLt, opened when it is first needed: libcublasLt.so of CUDA 13, else 12. Its functions are members without
/// their prefix; null when it is not there.
class CublasLt {
 public:
  /// Never throws for a library that is missing: available() is then false.
  static const CublasLt& get();
  /// Error(device) saying why when it is missing.
  static const CublasLt& needed();

  bool available() const { return handle != nullptr; }
  /// "13.1.0", or why there is none.
  std::string text() const;

 private:
  template <class F>
  F load(const char* name) const {
    return handle == nullptr ? nullptr : reinterpret_cast<F>(symbol(handle, name));
  }
  std::string reason;
  void* handle = open_library({"libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"}, reason);

 public:
#define WICK_FUNCTION(name) decltype(&cublasLt##name) name = load<decltype(&cublasLt##name)>("cublasLt" #name)
  WICK_FUNCTION(Create);
  WICK_FUNCTION(GetVersion);
  WICK_FUNCTION(GetStatusString);
  WICK_FUNCTION(MatmulDescCreate);
  WICK_FUNCTION(MatmulDescDestroy);
  WICK_FUNCTION(MatmulDescSetAttribute);
  WICK_FUNCTION(MatrixLayoutCreate);
  WICK_FUNCTION(MatrixLayoutSetAttribute);
  WICK_FUNCTION(MatrixLayoutDestroy);
  WICK_FUNCTION(MatmulPreferenceCreate);
  WICK_FUNCTION(MatmulPreferenceDestroy);
  WICK_FUNCTION(MatmulPreferenceSetAttribute);
  WICK_FUNCTION(MatmulAlgoGetHeuristic);
  WICK_FUNCTION(MatmulAlgoCheck);
  WICK_FUNCTION(MatmulAlgoConfigGetAttribute);
  WICK_FUNCTION(Matmul);
#undef WICK_FUNCTION
};

/// Error(device) naming `what` and the status, or Error(out_of_memory) with the numbers, unless it is success.
void check(cublasStatus_t status, const char* what);

}  // namespace wick::cuda
