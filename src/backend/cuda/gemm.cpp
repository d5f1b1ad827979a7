#include "backend/cuda/gemm.h"

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "backend/cuda/cublaslt.h"
#include "backend/cuda/fastest.h"
#include "backend/cuda/gemm_resident.h"
#include "backend/cuda/gemv.h"
#include "backend/cuda/runtime.h"
#include "backend/gemm.h"
#include "backend/gemm_layout.h"
#include "backend/gemm_plans.h"
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
  bool tuned;
  auto operator<=>(const Key&) const = default;
};

struct Plan {
  cublasLtMatmulDesc_t operation = nullptr;
  cublasLtMatrixLayout_t a = nullptr, b = nullptr, c = nullptr;
  cublasLtMatmulAlgo_t algorithm = {};
};

constexpr std::size_t kWorkspace = 64U << 20;

constexpr int kCandidates = 16;
constexpr double kWorthTuning = 1 << 24;  // multiplications: fewer take about as long as their launch

// Everything of one device. Work is in order on one stream, so one workspace serves every product.
struct Context {
  cublasLtHandle_t handle = nullptr;
  void* workspace = nullptr;
  std::map<Key, Plan> plans;
  std::optional<GemmPlans> kept;  // what was tuned; nothing when tuning is off

  Context(const CublasLt& lib, int device) {
    (void)stream(device);
    check(lib.Create(&handle), "opening it");
    cuda::check(cudaMalloc(&workspace, kWorkspace), "the workspace of cuBLASLt");
    const char* const setting = std::getenv("WICK_GEMM_TUNING");
    const std::string& name = info(device).name;
    const auto file = gemm_plans_file(setting == nullptr ? "" : setting, cache_folder(), name, lib.text());
    if (file) kept.emplace(*file, name + ", cuBLASLt " + lib.text());
  }
};

// How a product is called in the file.
std::string name_of(const Key& k) {
  return fmt::format("{} to {}, {}x{}x{} {}{}, strides {} {} {}, alignment {} {} {} {}{}", to_string(k.in),
                     to_string(k.out), k.m, k.n, k.k, k.ta ? 'T' : 'N', k.tb ? 'T' : 'N', k.lda, k.ldb, k.ldc,
                     k.align_a, k.align_b, k.align_c, k.align_bias, k.beta ? ", added" : "");
}

cublasLtMatrixLayout_t make_layout(const CublasLt& lib, DType dtype, std::int64_t rows, std::int64_t columns,
                                   std::int64_t leading) {
  cublasLtMatrixLayout_t layout = nullptr;
  check(lib.MatrixLayoutCreate(&layout, type_of(dtype), static_cast<std::uint64_t>(rows),
                               static_cast<std::uint64_t>(columns), leading),
        "a layout");
  return layout;
}

// Row-major c = a b is column-major cᵀ = bᵀ aᵀ: cuBLASLt's A is our b, its B our a.
Plan make_plan(const CublasLt& lib, const Key& key) {
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
  }
  plan.a = key.tb ? make_layout(lib, key.in, key.k, key.n, key.ldb) : make_layout(lib, key.in, key.n, key.k, key.ldb);
  plan.b = key.ta ? make_layout(lib, key.in, key.m, key.k, key.lda) : make_layout(lib, key.in, key.k, key.m, key.lda);
  plan.c = make_layout(lib, key.out, key.n, key.m, key.ldc);
  return plan;
}

// The algorithms that cuBLASLt proposes, those that it takes for the fastest first; at least one.
std::vector<cublasLtMatmulAlgo_t> propose(const CublasLt& lib, const Context& context, const Plan& plan, const Key& key,
                                          int limit) {
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
  std::vector<cublasLtMatmulHeuristicResult_t> found(static_cast<std::size_t>(limit));
  int count = 0;
  const cublasStatus_t status = lib.MatmulAlgoGetHeuristic(context.handle, plan.operation, plan.a, plan.b, plan.c,
                                                           plan.c, preference, limit, found.data(), &count);
  lib.MatmulPreferenceDestroy(preference);
  if (status != CUBLAS_STATUS_SUCCESS || count == 0) {
    fail(ErrorCode::device, "[gemm] cuBLASLt has no algorithm for [{}, {}] x [{}, {}] in {}: {}", key.m, key.k, key.k,
         key.n, to_string(key.in), lib.GetStatusString(status));
  }
  std::vector<cublasLtMatmulAlgo_t> algorithms;
  for (int i = 0; i < count; ++i) {
    const cublasLtMatmulHeuristicResult_t& result = found[static_cast<std::size_t>(i)];
    if (i == 0 || result.state == CUBLAS_STATUS_SUCCESS) algorithms.push_back(result.algo);
  }
  return algorithms;
}

// One call of cuBLASLt.
struct Product {
  const CublasLt& lib;
  const Context& context;
  const Plan& plan;
  const Tensor &a, &b;
  double alpha, beta;

  cublasStatus_t run(const cublasLtMatmulAlgo_t& algorithm, void* c) const {
    const float alpha32 = static_cast<float>(alpha);
    const float beta32 = static_cast<float>(beta);
    const bool wide = a.dtype() == DType::f64;
    return lib.Matmul(context.handle, plan.operation, wide ? static_cast<const void*>(&alpha) : &alpha32, b.raw(),
                      plan.a, a.raw(), plan.b, wide ? static_cast<const void*>(&beta) : &beta32, c, plan.c, c, plan.c,
                      &algorithm, context.workspace, kWorkspace, stream(a.device().index));
  }
};

// The algorithm that the file has for this product; one that this device cannot run does not count.
std::optional<cublasLtMatmulAlgo_t> usable(const Product& p, const std::optional<GemmPlan>& kept) {
  if (!kept) return {};
  const auto algorithm = std::bit_cast<cublasLtMatmulAlgo_t>(*kept);
  cublasLtMatmulHeuristicResult_t result = {};
  const cublasStatus_t status = p.lib.MatmulAlgoCheck(p.context.handle, p.plan.operation, p.plan.a, p.plan.b, p.plan.c,
                                                      p.plan.c, &algorithm, &result);
  if (status != CUBLAS_STATUS_SUCCESS || result.workspaceSize > kWorkspace) return {};
  return algorithm;
}

// The fastest algorithm for this product: what an earlier run found, or what timing finds now. cuBLASLt's first
// proposal where it cannot be timed, or the choice not be kept for later runs.
cublasLtMatmulAlgo_t tuned_algorithm(const Product& p, GemmPlans& kept, const Key& key, const Tensor& c) {
  const std::string name = name_of(key);
  if (const auto known = usable(p, kept.find(name))) return *known;
  const auto candidates = propose(p.lib, p.context, p.plan, key, kCandidates);
  if (candidates.size() == 1 || capturing(key.device)) return candidates[0];
  // Where c is added to, it has to stay as it is.
  const Tensor other = key.beta ? Tensor::empty({key.m, key.ldc}, c.dtype(), c.device()) : c;
  const std::size_t best = fastest(
      stream(key.device), candidates.size(),
      [&](std::size_t i) { return p.run(candidates[i], other.raw()) == CUBLAS_STATUS_SUCCESS; }, p.context.workspace,
      kWorkspace);
  return usable(p, kept.add(name, std::bit_cast<GemmPlan>(candidates[best]))).value_or(candidates[0]);
}

}  // namespace

void gemm(const Tensor& a, const Tensor& b, const Tensor& c, double alpha, double beta, const Tensor& given_bias) {
  const Tensor bias = given_bias.defined() ? given_bias.contiguous() : given_bias;
  if (a.size(0) > 1 && b.stride(0) == 1 && alpha == 1 && beta == 0 && gemm_resident(a, b.transpose(0, 1), c, bias)) {
    return;
  }
  // Few rows by a matrix that lies as weights do: reading it is all the work.
  GemvOptions few;
  few.bias = bias;
  if (b.stride(0) == 1 && gemv(a, b.transpose(0, 1), c, static_cast<float>(alpha), static_cast<float>(beta), few)) {
    return;
  }
  if (a.dtype() == DType::f64 && bias.defined()) {  // no epilogues in double
    c.copy_from(bias.expand(c.shape()));
    return cuda::gemm(a, b, c, alpha, 1.0, {});
  }
  const CublasLt& lib = CublasLt::needed();
  const GemmLayout la = gemm_layout(a, "a");
  const GemmLayout lb = gemm_layout(b, "b");
  const GemmLayout lc = gemm_layout(c, "c");
  if (lc.transposed) fail(ErrorCode::invalid_argument, "[gemm] the columns of c must be dense");
  const int device = a.device().index;
  const double products =
      static_cast<double>(a.size(0)) * static_cast<double>(b.size(1)) * static_cast<double>(a.size(1));
  const bool tuned = GemmTuning::wanted() && products >= kWorthTuning;
  const Key key{device,        a.size(0),    b.size(1),    a.size(1),
                la.leading,    lb.leading,   lc.leading,   la.transposed,
                lb.transposed, beta != 0,    a.dtype(),    c.dtype(),
                alignment(a),  alignment(b), alignment(c), bias.defined() ? alignment(bias) : 0,
                tuned};
  static std::mutex mutex;
  static std::map<int, Context> contexts;
  const std::scoped_lock lock(mutex);
  auto opened = contexts.find(device);
  if (opened == contexts.end()) opened = contexts.try_emplace(device, lib, device).first;
  Context& context = opened->second;
  auto found = context.plans.find(key);
  const bool seen = found != context.plans.end();
  Plan plan = seen ? found->second : make_plan(lib, key);
  if (bias.defined()) {
    const void* const address = bias.raw();
    check(lib.MatmulDescSetAttribute(plan.operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &address, sizeof address),
          "a bias");
  }
  const Product product{lib, context, plan, a, b, alpha, beta};
  if (!seen) {
    plan.algorithm = tuned && context.kept ? tuned_algorithm(product, *context.kept, key, c)
                                           : propose(lib, context, plan, key, 1)[0];
    context.plans.emplace(key, plan);
  }
  const WorkScope scope(gemm_work(a, b, c, beta));
  check(product.run(plan.algorithm, c.raw()), "a product");
}

}  // namespace wick::cuda
