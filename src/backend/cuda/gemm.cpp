#include "backend/cuda/gemm.h"

#include <cublasLt.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <mutex>

#include "backend/cuda/gemv.h"
#include "backend/cuda/runtime.h"
#include "backend/gemm_layout.h"
#include "core/fail.h"

namespace wick::cuda {
namespace {

// cuBLASLt, opened when it is first needed.
struct Library {
  std::string reason;
  void* handle = open_library({"libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"}, reason);
#define WICK_FUNCTION(name) decltype(&cublasLt##name) name = load<decltype(&cublasLt##name)>("cublasLt" #name)
  WICK_FUNCTION(Create);
  WICK_FUNCTION(GetVersion);
  WICK_FUNCTION(GetStatusString);
  WICK_FUNCTION(MatmulDescCreate);
  WICK_FUNCTION(MatmulDescDestroy);
  WICK_FUNCTION(MatmulDescSetAttribute);
  WICK_FUNCTION(MatrixLayoutCreate);
  WICK_FUNCTION(MatrixLayoutDestroy);
  WICK_FUNCTION(MatmulPreferenceCreate);
  WICK_FUNCTION(MatmulPreferenceDestroy);
  WICK_FUNCTION(MatmulPreferenceSetAttribute);
  WICK_FUNCTION(MatmulAlgoGetHeuristic);
  WICK_FUNCTION(Matmul);
#undef WICK_FUNCTION

  static const Library& get() {
    static const Library library;
    return library;
  }
  static const Library& needed() {
    if (get().handle == nullptr) fail(ErrorCode::device, "[cuda] cuBLASLt is needed: {}", get().reason);
    return get();
  }

 private:
  template <class F>
  F load(const char* name) const {
    return handle == nullptr ? nullptr : reinterpret_cast<F>(symbol(handle, name));
  }
};

void check(cublasStatus_t status, const char* what) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  fail(ErrorCode::device, "[gemm] cuBLASLt, {}: {}", what, Library::get().GetStatusString(status));
}

cudaDataType_t type_of(DType dtype) {
  switch (dtype) {
    case DType::bf16:
      return CUDA_R_16BF;
    case DType::f16:
      return CUDA_R_16F;
    case DType::f64:
      return CUDA_R_64F;
    default:
      return CUDA_R_32F;
  }
}

std::uint32_t alignment(const Tensor& t) {
  const auto address = reinterpret_cast<std::uintptr_t>(t.raw());
  return static_cast<std::uint32_t>(std::min<std::uintptr_t>(address & (~address + 1), 256));
}

struct Key {
  int device;
  std::int64_t m, n, k, lda, ldb, ldc;
  bool ta, tb, beta;
  DType in, out;
  std::uint32_t align_a, align_b, align_c;
  auto operator<=>(const Key&) const = default;
};

struct Plan {
  cublasLtMatmulDesc_t operation = nullptr;
  cublasLtMatrixLayout_t a = nullptr, b = nullptr, c = nullptr;
  cublasLtMatmulAlgo_t algorithm = {};
};

constexpr std::size_t kWorkspace = 64U << 20;

// Everything of one device. Work is in order on one stream, so one workspace serves every product.
struct Context {
  cublasLtHandle_t handle = nullptr;
  void* workspace = nullptr;
  std::map<Key, Plan> plans;
};

cublasLtMatrixLayout_t make_layout(const Library& lib, DType dtype, std::int64_t rows, std::int64_t columns,
                                   std::int64_t leading) {
  cublasLtMatrixLayout_t layout = nullptr;
  check(lib.MatrixLayoutCreate(&layout, type_of(dtype), static_cast<std::uint64_t>(rows),
                               static_cast<std::uint64_t>(columns), leading),
        "a layout");
  return layout;
}

// Row-major c = a b is column-major cᵀ = bᵀ aᵀ: cuBLASLt's A is our b, its B our a.
Plan make_plan(const Library& lib, const Context& context, const Key& key) {
  Plan plan;
  const cublasComputeType_t compute = key.in == DType::f64 ? CUBLAS_COMPUTE_64F : CUBLAS_COMPUTE_32F;
  check(lib.MatmulDescCreate(&plan.operation, compute, key.in == DType::f64 ? CUDA_R_64F : CUDA_R_32F), "a product");
  const auto set = [&](cublasLtMatmulDescAttributes_t what, const auto& value) {
    check(lib.MatmulDescSetAttribute(plan.operation, what, &value, sizeof value), "a product's attribute");
  };
  set(CUBLASLT_MATMUL_DESC_TRANSA, key.tb ? CUBLAS_OP_T : CUBLAS_OP_N);
  set(CUBLASLT_MATMUL_DESC_TRANSB, key.ta ? CUBLAS_OP_T : CUBLAS_OP_N);
  plan.a = key.tb ? make_layout(lib, key.in, key.k, key.n, key.ldb) : make_layout(lib, key.in, key.n, key.k, key.ldb);
  plan.b = key.ta ? make_layout(lib, key.in, key.m, key.k, key.lda) : make_layout(lib, key.in, key.k, key.m, key.lda);
  plan.c = make_layout(lib, key.out, key.n, key.m, key.ldc);
  cublasLtMatmulPreference_t preference = nullptr;
  check(lib.MatmulPreferenceCreate(&preference), "a preference");
  const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t what, const auto& value) {
    check(lib.MatmulPreferenceSetAttribute(preference, what, &value, sizeof value), "a preference's attribute");
  };
  prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kWorkspace);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, key.align_b);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, key.align_a);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, key.align_c);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, key.align_c);
  cublasLtMatmulHeuristicResult_t found = {};
  int count = 0;
  const cublasStatus_t status = lib.MatmulAlgoGetHeuristic(context.handle, plan.operation, plan.a, plan.b, plan.c,
                                                           plan.c, preference, 1, &found, &count);
  lib.MatmulPreferenceDestroy(preference);
  if (status != CUBLAS_STATUS_SUCCESS || count == 0) {
    fail(ErrorCode::device, "[gemm] cuBLASLt has no algorithm for [{}, {}] x [{}, {}] in {}: {}", key.m, key.k, key.k,
         key.n, to_string(key.in), lib.GetStatusString(status));
  }
  plan.algorithm = found.algo;
  return plan;
}

}  // namespace

LibraryState cublaslt_state() {
  const Library& lib = Library::get();
  if (lib.handle == nullptr) return {false, lib.reason};
  const std::size_t version = lib.GetVersion();
  return {true, fmt::format("{}.{}.{}", version / 10000, version / 100 % 100, version % 100)};
}

void gemm(const Tensor& a, const Tensor& b, const Tensor& c, double alpha, double beta) {
  // Few rows by a matrix that lies as weights do: reading it is all the work.
  if (b.stride(0) == 1 && gemv(a, b.transpose(0, 1), c, static_cast<float>(alpha), static_cast<float>(beta))) return;
  const Library& lib = Library::needed();
  const GemmLayout la = gemm_layout(a, "a");
  const GemmLayout lb = gemm_layout(b, "b");
  const GemmLayout lc = gemm_layout(c, "c");
  if (lc.transposed) fail(ErrorCode::invalid_argument, "[gemm] the columns of c must be dense");
  const int device = a.device().index;
  const Key key{device,        a.size(0), b.size(1), a.size(1), la.leading,   lb.leading,   lc.leading,  la.transposed,
                lb.transposed, beta != 0, a.dtype(), c.dtype(), alignment(a), alignment(b), alignment(c)};
  static std::mutex mutex;
  static std::map<int, Context> contexts;
  const std::scoped_lock lock(mutex);
  Context& context = contexts[device];
  if (context.handle == nullptr) {
    (void)stream(device);
    check(lib.Create(&context.handle), "opening it");
    cuda::check(cudaMalloc(&context.workspace, kWorkspace), "the workspace of cuBLASLt");
  }
  auto found = context.plans.find(key);
  if (found == context.plans.end()) found = context.plans.emplace(key, make_plan(lib, context, key)).first;
  const Plan& plan = found->second;
  const float alpha32 = static_cast<float>(alpha);
  const float beta32 = static_cast<float>(beta);
  const bool wide = a.dtype() == DType::f64;
  const WorkScope scope(gemm_work(a, b, c, beta));
  check(lib.Matmul(context.handle, plan.operation, wide ? static_cast<const void*>(&alpha) : &alpha32, b.raw(), plan.a,
                   a.raw(), plan.b, wide ? static_cast<const void*>(&beta) : &beta32, c.raw(), plan.c, c.raw(), plan.c,
                   &plan.algorithm, context.workspace, kWorkspace, stream(device)),
        "a product");
}

}  // namespace wick::cuda
