#include "backend/cuda/gemm.h"

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "backend/cuda/arena.h"
#include "backend/cuda/cublaslt.h"
#include "backend/cuda/fastest.h"
#include "backend/cuda/gemm_resident.h"
#include "backend/cuda/gemm_tiled.h"
#include "backend/cuda/gemv.h"
#include "backend/cuda/runtime.h"
#include "backend/gemm.h"
#include "backend/gemm_layout.h"
#include "backend/gemm_plans.h"
#include "core/batch_invariance.h"
#include "core/fail.h"
#include "core/rng.h"

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

// How a product's algorithm is chosen: cuBLASLt's first proposal, the fastest, or one that gives each row of c the same
// bytes whatever their number.
enum class Choice { first, fastest, invariant };

struct Key {
  int device;
  std::int64_t m, n, k, lda, ldb, ldc;
  bool ta, tb, beta;
  DType in, out;
  std::uint32_t align_a, align_b, align_c, align_bias;  // align_bias is 0 without a bias
  Choice choice;                                        // invariant: m is kManyRows, lda and ldc are alike()
  auto operator<=>(const Key&) const = default;
};

struct Plan {
  cublasLtMatmulDesc_t operation = nullptr;
  cublasLtMatrixLayout_t a = nullptr, b = nullptr, c = nullptr;
  std::optional<cublasLtMatmulAlgo_t> algorithm;  // nothing: none of the library's, but gemm_tiled()
};

constexpr std::size_t kWorkspace = 64U << 20;

constexpr int kCandidates = 16;
constexpr double kWorthTuning = 1 << 24;  // multiplications: fewer take about as long as their launch

constexpr int kInvariantCandidates = 32;
constexpr std::int64_t kManyRows = 16384;           // for which they are asked for: there throughput counts
constexpr std::int64_t kTrialElements = 1LL << 26;  // of a matrix that they are tried on

// Everything of one device. Work is in order on one stream, so one workspace serves every product.
struct Context {
  cublasLtHandle_t handle = nullptr;
  void* workspace = nullptr;
  std::map<Key, Plan> plans;
  std::optional<GemmPlans> kept;  // what was tuned; nothing when tuning is off

  Context(const CublasLt& lib, int device) {
    (void)stream(device);
    const char* const setting = std::getenv("WICK_GEMM_TUNING");
    const std::string& name = info(device).name;
    const auto file = gemm_plans_file(setting == nullptr ? "" : setting, cache_folder(), name, lib.text());
    if (file) kept.emplace(*file, name + ", cuBLASLt " + lib.text());
    // Of the device's arena even while a graph is recorded: it stays, and every graph may use it.
    std::unique_ptr<Arena::Block, void (*)(Arena::Block*) noexcept> block(device_arena(device).allocate(kWorkspace),
                                                                          Arena::release);
    check(lib.Create(&handle), "opening it");
    workspace = block.release()->data;
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

// The algorithms that cuBLASLt proposes, those that it takes for the fastest first; none where it has none.
std::vector<cublasLtMatmulHeuristicResult_t> propose(const CublasLt& lib, const Context& context, const Plan& plan,
                                                     const Key& key, int limit) {
  cublasLtMatmulPreference_t preference = nullptr;
  check(lib.MatmulPreferenceCreate(&preference), "a preference");
  // Parts of a sum meet in float32, never in the result's own 16 bits.
  const std::uint32_t reductions =
      key.choice == Choice::invariant ? CUBLASLT_REDUCTION_SCHEME_NONE : CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
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
  const bool asked = status != CUBLAS_STATUS_NOT_SUPPORTED && key.choice != Choice::invariant;
  if (asked || status == CUBLAS_STATUS_ALLOC_FAILED) check(status, "asking for algorithms");
  if (status != CUBLAS_STATUS_SUCCESS || count == 0) return {};
  found.resize(static_cast<std::size_t>(count));
  found.erase(std::remove_if(found.begin() + 1, found.end(),
                             [](const auto& result) { return result.state != CUBLAS_STATUS_SUCCESS; }),
              found.end());
  return found;
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
std::optional<cublasLtMatmulAlgo_t> tuned_algorithm(const Product& p, GemmPlans& kept, const Key& key,
                                                    const Tensor& c) {
  const std::string name = name_of(key);
  if (const auto known = usable(p, kept.find(name))) return known;
  const auto candidates = propose(p.lib, p.context, p.plan, key, kCandidates);
  if (candidates.empty()) return {};
  if (candidates.size() == 1 || capturing(key.device)) return candidates[0].algo;
  // Where c is added to, it has to stay as it is.
  const Tensor other = key.beta ? Tensor::empty({key.m, key.ldc}, c.dtype(), c.device()) : c;
  const std::size_t best = fastest(
      stream(key.device), candidates.size(),
      [&](std::size_t i) { return p.run(candidates[i].algo, other.raw()) == CUBLAS_STATUS_SUCCESS; },
      p.context.workspace, kWorkspace);
  return usable(p, kept.add(name, std::bit_cast<GemmPlan>(candidates[best].algo))).value_or(candidates[0].algo);
}

// The smallest distance of rows of so many columns that begin on the same multiples of bytes, up to 16, as those at
// `stride` do: that is what an algorithm may depend on, and strides of a single row are anything.
std::int64_t alike(std::int64_t stride, std::int64_t columns, DType dtype) {
  const std::int64_t most = 16 / static_cast<std::int64_t>(size_of(dtype));
  const std::int64_t unit = std::min(stride & -stride, most);
  const std::int64_t found = (columns + unit - 1) / unit * unit;
  return unit < most && found % (2 * unit) == 0 ? found + unit : found;
}

// An invariant plan is for any number of rows of a and c, and any strides that are alike().
void set_rows(const CublasLt& lib, const Plan& plan, std::int64_t m, std::int64_t lda, std::int64_t ldc) {
  const auto rows = static_cast<std::uint64_t>(m);
  for (const auto& [layout, leading] : {std::pair{plan.b, lda}, {plan.c, ldc}}) {
    check(lib.MatrixLayoutSetAttribute(layout, CUBLASLT_MATRIX_LAYOUT_COLS, &rows, sizeof rows), "a layout's rows");
    check(lib.MatrixLayoutSetAttribute(layout, CUBLASLT_MATRIX_LAYOUT_LD, &leading, sizeof leading), "a layout's rows");
  }
}

void set_bias(const CublasLt& lib, const Plan& plan, const Tensor& bias) {
  if (!bias.defined()) return;
  const void* const address = bias.raw();
  check(lib.MatmulDescSetAttribute(plan.operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &address, sizeof address),
        "a bias");
}

// A setting of an algorithm; 0 where it has none of the kind.
template <class T>
T config_of(const CublasLt& lib, const cublasLtMatmulAlgo_t& algorithm, cublasLtMatmulAlgoConfigAttributes_t what) {
  T value = {};
  std::size_t written = 0;
  const cublasStatus_t status = lib.MatmulAlgoConfigGetAttribute(&algorithm, what, &value, sizeof value, &written);
  return status == CUBLAS_STATUS_SUCCESS ? value : T{};
}

// The first of cuBLASLt's proposals for many rows that gives all rows the same bytes, in any number of them. Those that
// divide sums by what else there is to do say so in part only (as split k), so each is tried: on rows that are all the
// same, whose results then have to be. What needs memory to work in, where parts of sums might meet, comes last.
std::optional<cublasLtMatmulAlgo_t> invariant_algorithm(const CublasLt& lib, const Context& context, const Plan& plan,
                                                        const Key& key) {
  auto candidates = propose(lib, context, plan, key, kInvariantCandidates);
  std::erase_if(candidates, [&](const auto& each) {
    return config_of<std::int32_t>(lib, each.algo, CUBLASLT_ALGO_CONFIG_SPLITK_NUM) > 1;
  });
  std::ranges::stable_partition(candidates, [](const auto& each) { return each.workspaceSize == 0; });

  const Device device{DeviceType::cuda, key.device};
  std::uint32_t number = 0;
  const auto random = [&](std::int64_t rows, std::int64_t columns, DType dtype) {
    const Tensor made = Tensor::empty({rows, columns}, DType::f32, device);
    fill_uniform(made, -1, 1, 0, {RandomPurpose::initialisation, number++});
    return made.to(dtype);
  };
  const std::int64_t most = std::clamp<std::int64_t>(kTrialElements / std::max(key.lda, key.ldc), 512, kManyRows);
  const Tensor a = random(1, key.lda, key.in).expand({most, key.lda}).contiguous();
  const Tensor b = random(key.tb ? key.n : key.k, key.ldb, key.in);
  const Tensor bias = key.align_bias != 0 ? random(1, key.n, key.out) : Tensor();
  const Tensor c = Tensor::empty({most, key.ldc}, key.out, device);
  const Tensor right = Tensor::empty({1, key.ldc}, key.out, device);
  set_bias(lib, plan, bias);
  const Product product{lib, context, plan, a, b, 1.0, key.beta ? 1.0 : 0.0};
  const auto invariant = [&](const cublasLtMatmulAlgo_t& algorithm) {
    for (const std::int64_t rows : {most, std::int64_t{1}, std::int64_t{2}, std::int64_t{17}, std::int64_t{40},
                                    std::int64_t{100}, std::int64_t{130}, std::int64_t{300}, most / 15, most / 4}) {
      c.fill(1);
      set_rows(lib, plan, rows, key.lda, key.ldc);
      const cublasStatus_t status = product.run(algorithm, c.raw());
      if (status == CUBLAS_STATUS_ALLOC_FAILED) check(status, "a trial");  // no answer to keep
      if (status != CUBLAS_STATUS_SUCCESS) return false;
      if (rows == most) right.copy_from(c.slice(0, 0, 1));
      const Tensor found = c.slice(0, 0, rows).slice(1, 0, key.n);
      if (!same_bytes(found, right.slice(1, 0, key.n).expand(found.shape()))) return false;
    }
    return true;
  };
  for (const auto& each : candidates) {
    if (invariant(each.algo)) return each.algo;
  }
  return {};
}

// The contexts of all devices, and who may look at them.
struct Contexts {
  std::mutex mutex;
  std::map<int, Context> of;
};
Contexts& contexts() {
  static Contexts all;
  return all;
}

}  // namespace

void gemm(const Tensor& a, const Tensor& b, const Tensor& c, double alpha, double beta, const Tensor& given_bias) {
  const Tensor bias = given_bias.defined() ? given_bias.contiguous() : given_bias;
  const bool invariant = BatchInvariance::wanted() && a.dtype() != DType::f64;
  if ((a.size(0) > 1 || invariant) && b.stride(0) == 1 && alpha == 1 && beta == 0 &&
      gemm_resident(a, b.transpose(0, 1), c, bias)) {
    return;
  }
  // Few rows by a matrix that lies as weights do: reading it is all the work.
  GemvOptions few;
  few.bias = bias;
  if (!invariant && b.stride(0) == 1 &&
      gemv(a, b.transpose(0, 1), c, static_cast<float>(alpha), static_cast<float>(beta), few)) {
    return;
  }
  GemmLayout la = gemm_layout(a, "a");
  const GemmLayout lb = gemm_layout(b, "b");
  GemmLayout lc = gemm_layout(c, "c");
  if (lc.transposed) fail(ErrorCode::invalid_argument, "[gemm] the columns of c must be dense");
  if (!libraries_wanted()) return gemm_tiled(a, b, c, alpha, beta, bias);
  if (a.dtype() == DType::f64 && bias.defined()) {  // no epilogues in double
    c.copy_from(bias.expand(c.shape()));
    return cuda::gemm(a, b, c, alpha, 1.0, {});
  }
  const CublasLt& lib = CublasLt::needed();
  const int device = a.device().index;
  const double products =
      static_cast<double>(a.size(0)) * static_cast<double>(b.size(1)) * static_cast<double>(a.size(1));
  Choice choice = GemmTuning::wanted() && products >= kWorthTuning ? Choice::fastest : Choice::first;
  if (invariant && !la.transposed) {
    choice = Choice::invariant;
    la.leading = std::max(a.stride(0), a.size(1));  // of one row too
    lc.leading = std::max(c.stride(0), c.size(1));
  }
  const auto leading = [&](const GemmLayout& layout, const Tensor& t) {
    return choice == Choice::invariant ? alike(layout.leading, t.size(1), t.dtype()) : layout.leading;
  };
  const auto aligned = [&](const Tensor& t) {
    return choice == Choice::invariant ? std::min(alignment(t), 16U) : alignment(t);  // whichever row is the first
  };
  const Key key{device,         choice == Choice::invariant ? kManyRows : a.size(0),
                b.size(1),      a.size(1),
                leading(la, a), lb.leading,
                leading(lc, c), la.transposed,
                lb.transposed,  beta != 0,
                a.dtype(),      c.dtype(),
                aligned(a),     aligned(b),
                aligned(c),     bias.defined() ? aligned(bias) : 0,
                choice};
  Contexts& all = contexts();
  const std::scoped_lock lock(all.mutex);
  auto opened = all.of.find(device);
  if (opened == all.of.end()) opened = all.of.try_emplace(device, lib, device).first;
  Context& context = opened->second;
  auto found = context.plans.find(key);
  if (found == context.plans.end()) {
    Plan plan = make_plan(lib, key);
    set_bias(lib, plan, bias);
    if (choice == Choice::invariant) {
      plan.algorithm = invariant_algorithm(lib, context, plan, key);
    } else if (choice == Choice::fastest && context.kept) {
      plan.algorithm = tuned_algorithm({lib, context, plan, a, b, alpha, beta}, *context.kept, key, c);
    } else {
      const auto proposed = propose(lib, context, plan, key, 1);
      if (!proposed.empty()) plan.algorithm = proposed[0].algo;
    }
    found = context.plans.emplace(key, plan).first;
  }
  const Plan& plan = found->second;
  if (!plan.algorithm) return gemm_tiled(a, b, c, alpha, beta, bias);
  if (choice == Choice::invariant) set_rows(lib, plan, a.size(0), la.leading, lc.leading);
  set_bias(lib, plan, bias);
  const WorkScope scope(gemm_work(a, b, c, beta));
  check(Product{lib, context, plan, a, b, alpha, beta}.run(*plan.algorithm, c.raw()), "a product");
}

std::vector<std::string> invariant_products() {
  std::vector<std::string> lines;
  const CublasLt& lib = CublasLt::get();
  Contexts& all = contexts();
  const std::scoped_lock lock(all.mutex);
  for (const auto& [device, context] : all.of) {
    for (const auto& [key, plan] : context.plans) {
      if (key.choice != Choice::invariant) continue;
      std::string line = name_of(key) + ": ";
      if (plan.algorithm) {
        const auto number = [&](cublasLtMatmulAlgoConfigAttributes_t what) {
          return config_of<std::uint32_t>(lib, *plan.algorithm, what);
        };
        const auto small = [&](cublasLtMatmulAlgoConfigAttributes_t what) {
          return config_of<std::uint16_t>(lib, *plan.algorithm, what);
        };
        line += fmt::format("algorithm {}, tile {}, stages {}, inner shape {}, cluster {}, option {}, swizzle {}",
                            number(CUBLASLT_ALGO_CONFIG_ID), number(CUBLASLT_ALGO_CONFIG_TILE_ID),
                            number(CUBLASLT_ALGO_CONFIG_STAGES_ID), small(CUBLASLT_ALGO_CONFIG_INNER_SHAPE_ID),
                            small(CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID), number(CUBLASLT_ALGO_CONFIG_CUSTOM_OPTION),
                            number(CUBLASLT_ALGO_CONFIG_CTA_SWIZZLING));
      } else {
        line += "the plain kernel";
      }
      lines.push_back(line);
    }
  }
  return lines;
}

}  // namespace wick::cuda
