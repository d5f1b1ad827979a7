#include "backend/cuda/gemm.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <mutex>

#include "backend/cuda/cublaslt.h"
#include "backend/cuda/gemv.h"
#include "backend/cuda/runtime.h"
#include "backend/gemm_layout.h"
#include "core/fail.h"

namespace wick::cuda {
namespace {

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
  std::uint32_t align_a, align_b, align_c, align_bias;  // align_bias is 0 without a bias
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

cublasLtMatrixLayout_t make_layout(const CublasLt& lib, DType dtype, std::int64_t rows, std::int64_t columns,
                                   std::int64_t leading) {
  cublasLtMatrixLayout_t layout = nullptr;
  check(lib.MatrixLayoutCreate(&layout, type_of(dtype), static_cast<std::uint64_t>(rows),
                               static_cast<std::uint64_t>(columns), leading),
        "a layout");
  return layout;
}

// Row-major c = a b is column-major cᵀ = bᵀ aᵀ: cuBLASLt's A is our b, its B our a.
Plan make_plan(const CublasLt& lib, const Context& context, const Key& key) {
  Plan plan;
  const cublasComputeType_t compute = key.in == DType::f64 ? CUBLAS_COMPUTE_64F : CUBLAS_COMPUTE_32F;
  check(lib.MatmulDescCreate(&plan.operation, compute, key.in == DType::f64 ? CUDA_R_64F : CUDA_R_32F), "a product");
  const auto set = [&](cublasLtMatmulDescAttributes_t what, const auto& value) {
    check(lib.MatmulDescSetAttribute(plan.operation, what, &value, sizeof value), "a product's attribute");
  };
  set(CUBLASLT_MATMUL_DESC_TRANSA, key.tb ? CUBLAS_OP_T : CUBLAS_OP_N);
  set(CUBLASLT_MATMUL_DESC_TRANSB, key.ta ? CUBLAS_OP_T : CUBLAS_OP_N);
  if (key.align_bias != 0) {
    // Along the rows of cuBLASLt's result, which are our columns.
    set(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
    set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, type_of(key.out));
    // The search looks at no more than the alignment of the address; each product brings its own.
    set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, reinterpret_cast<const void*>(std::uintptr_t{key.align_bias}));
  }
  plan.a = key.tb ? make_layout(lib, key.in, key.k, key.n, key.ldb) : make_layout(lib, key.in, key.n, key.k, key.ldb);
  plan.b = key.ta ? make_layout(lib, key.in, key.m, key.k, key.lda) : make_layout(lib, key.in, key.k, key.m, key.lda);
  plan.c = make_layout(lib, key.out, key.n, key.m, key.ldc);
  cublasLtMatmulPreference_t preference = nullptr;
  check(lib.MatmulPreferenceCreate(&preference), "a preference");
  // Parts of a sum meet in float32, never in the result's own 16 bits.
  const std::uint32_t reductions = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
  const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t what, const auto& value) {
    check(lib.MatmulPreferenceSetAttribute(preference, what, &value, sizeof value), "a preference's attribute");
  };
  prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kWorkspace);
  prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, reductions);
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

void gemm(const Tensor& a, const Tensor& b, const Tensor& c, double alpha, double beta, const Tensor& given_bias) {
  const Tensor bias = given_bias.defined() ? given_bias.contiguous() : given_bias;
  // Few rows by a matrix that lies as weights do: reading it is all the work.
  GemvOptions few;
  few.bias = bias;
  if (b.stride(0) == 1 && gemv(a, b.transpose(0, 1), c, static_cast<float>(alpha), static_cast<float>(beta), few)) {
    return;
  }
  const bool wide = a.dtype() == DType::f64;
  if (wide && bias.defined()) {  // no epilogues in double
    c.copy_from(bias.expand(c.shape()));
    return gemm(a, b, c, alpha, 1.0, {});
  }
  const CublasLt& lib = CublasLt::needed();
  const GemmLayout la = gemm_layout(a, "a");
  const GemmLayout lb = gemm_layout(b, "b");
  const GemmLayout lc = gemm_layout(c, "c");
  if (lc.transposed) fail(ErrorCode::invalid_argument, "[gemm] the columns of c must be dense");
  const int device = a.device().index;
  const Key key{device,        a.size(0),    b.size(1),    a.size(1),
                la.leading,    lb.leading,   lc.leading,   la.transposed,
                lb.transposed, beta != 0,    a.dtype(),    c.dtype(),
                alignment(a),  alignment(b), alignment(c), bias.defined() ? alignment(bias) : 0};
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
  if (bias.defined()) {
    const void* const address = bias.raw();
    check(lib.MatmulDescSetAttribute(plan.operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &address, sizeof address),
          "a bias");
  }
  const auto bytes = [](const Tensor& t) {
    return static_cast<double>(t.numel()) * static_cast<double>(size_of(t.dtype()));
  };
  const WorkScope scope({"gemm", bytes(a) + bytes(b) + bytes(c) * (beta != 0 ? 2 : 1),
                         2.0 * static_cast<double>(key.m) * static_cast<double>(key.n) * static_cast<double>(key.k)});
  check(lib.Matmul(context.handle, plan.operation, wide ? static_cast<const void*>(&alpha) : &alpha32, b.raw(), plan.a,
                   a.raw(), plan.b, wide ? static_cast<const void*>(&beta) : &beta32, c.raw(), plan.c, c.raw(), plan.c,
                   &plan.algorithm, context.workspace, kWorkspace, stream(device)),
        "a product");
}

}  // namespace wick::cuda
