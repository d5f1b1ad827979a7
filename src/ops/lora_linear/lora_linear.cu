#include <algorithm>

#include "ops/lora_linear/lora_linear.h"
#include "ops/lora_linear/lora_skinny.cuh"

namespace wick::cuda {
namespace {

using namespace skinny;

/// Calls fn(T{}, std::integral_constant<int, R>{}) for a 16-bit type and a rank of 16, 32, 48 or 64.
template <class Fn>
void visit(DType dtype, std::int64_t rank, Fn&& fn) {
  const auto with_rank = [&](auto zero) {
    if (rank == 16) return fn(zero, std::integral_constant<int, 16>{});
    if (rank == 32) return fn(zero, std::integral_constant<int, 32>{});
    if (rank == 48) return fn(zero, std::integral_constant<int, 48>{});
    return fn(zero, std::integral_constant<int, 64>{});
  };
  dtype == DType::bf16 ? with_rank(__nv_bfloat16{}) : with_rank(__half{});
}

/// Null if the kernels take these: a tall matrix, a factor and a matrix [tokens, rank].
Declined check_matrices(const Tensor& tall, const Tensor& factor, const Tensor& narrow) {
  if (info(tall.device().index).major < 9) return "clusters of blocks need compute capability 9.0";
  if (tall.dtype() != DType::bf16 && tall.dtype() != DType::f16) return "neither bf16 nor f16";
  const std::int64_t rank = narrow.size(1);
  if (rank % 16 != 0 || rank > kMaxRank || rank == 0) return "the rank is no multiple of 16 up to 64";
  if (tall.size(0) == 0 || tall.size(1) == 0 || tall.size(1) % 8 != 0) return "no multiple of 8 columns";
  if (tall.size(0) > (1 << 30) || tall.size(1) > (1 << 30)) return "an extent past 2^30";
  if (!packs(tall) || !packs(factor) || !packs(narrow)) return "rows that are not aligned to 16 bytes";
  return nullptr;
}

std::int64_t round_up(std::int64_t value, std::int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

template <class T>
double bytes_of(std::int64_t rows, std::int64_t columns) {
  return static_cast<double>(rows) * static_cast<double>(columns) * sizeof(T);
}

/// How many clusters of a kernel run at a time; 0: none fits.
template <class Kernel>
int clusters_at_once(Kernel* kernel, std::size_t shared) {
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)),
        "lora_linear");
  cudaLaunchAttribute cluster = {};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim.x = kCluster;
  cluster.val.clusterDim.y = 1;
  cluster.val.clusterDim.z = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(kCluster);
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = shared;
  config.attrs = &cluster;
  config.numAttrs = 1;
  int count = 0;
  check(cudaOccupancyMaxActiveClusters(&count, kernel, &config), "lora_linear");
  return count;
}

/// Fills in how the work is divided and launches; the number of row ranges, 0 if the device cannot.
template <class T, int R, bool kOuter>
int plan(Project<T>& p) {
  constexpr std::size_t kShared = ProjectShape<R, kOuter>::kElements * sizeof(T);
  static const int at_once = clusters_at_once(project_kernel<T, R, kOuter>, kShared);
  if (at_once == 0) return 0;
  const int slabs = (p.rows + kSlab - 1) / kSlab;
  p.slabs = std::clamp((slabs + at_once - 1) / at_once, 1, ProjectShape<R, kOuter>::kSlabs);
  p.block_columns = static_cast<int>(round_up((p.columns + kCluster - 1) / kCluster, 16));
  return (slabs + p.slabs - 1) / p.slabs;
}

template <class T, int R, bool kOuter>
void run(const char* name, const Project<T>& p, int ranges) {
  const double products = kOuter ? 4 : 2;
  launch({name, bytes_of<T>(p.rows, p.columns + R) + bytes_of<T>(p.columns, R),
          products * static_cast<double>(p.rows) * p.columns * R},
         project_kernel<T, R, kOuter>,
         {.grid = dim3(static_cast<unsigned>(ranges * kCluster)),
          .block = dim3(kThreads),
          .shared = ProjectShape<R, kOuter>::kElements * sizeof(T),
          .overlap = true,
          .cluster = kCluster},
         p);
}

Declined project_cuda(const Tensor& x, const Tensor& a, const Tensor& h) {
  if (const Declined reason = check_matrices(x, a, h)) return reason;
  bool ran = false;
  visit(x.dtype(), h.size(1), [&](auto zero, auto rank) {
    using T = decltype(zero);
    Project<T> p = {};
    p.x = pointer<T>(x);
    p.factor = pointer<T>(a);
    p.out = pointer<T>(h);
    p.x_stride = x.stride(0);
    p.factor_stride = a.stride(0);
    p.out_stride = h.stride(0);
    p.rows = static_cast<int>(x.size(0));
    p.columns = static_cast<int>(x.size(1));
    const int ranges = plan<T, rank, false>(p);
    ran = ranges > 0;
    if (ran) run<T, rank, false>("lora_project", p, ranges);
  });
  return ran ? nullptr : "no cluster of 8 blocks fits on the device";
}

Siblings siblings_of(const LoraWeight& weight, std::span<const Tensor> da, std::span<const Tensor> db, bool add) {
  Siblings siblings = {};
  siblings.add = add;
  for (std::size_t i = 0; i < weight.blocks().size(); ++i) {
    const LoraWeight::Block& block = weight.blocks()[i];
    if (block.rank_size == 0) continue;
    siblings.blocks[siblings.count++] = {.out_begin = static_cast<int>(block.out_begin),
                                         .out_end = static_cast<int>(block.out_begin + block.out_size),
                                         .rank_begin = static_cast<int>(block.rank_begin),
                                         .rank_end = static_cast<int>(block.rank_begin + block.rank_size),
                                         .scale = static_cast<float>(block.scale),
                                         .da = pointer<float>(da[i]),
                                         .db = pointer<float>(db[i]),
                                         .da_stride = da[i].defined() ? da[i].stride(0) : 0,
                                         .db_stride = db[i].defined() ? db[i].stride(0) : 0};
  }
  return siblings;
}

template <class T, int R>
void run_outer(const Outer<T>& p) {
  launch({"lora_gradient_a", bytes_of<T>(p.rows, p.columns + R) + bytes_of<float>(R, p.columns),
          2.0 * p.rows * p.columns * R},
         outer_kernel<T, R>,
         {.grid = dim3(blocks_for(p.columns, p.cluster_columns) * kCluster),
          .block = dim3(kThreads),
          .shared = OuterShape<R>::kElements * sizeof(T),
          .overlap = true,
          .cluster = kCluster},
         p);
}

Declined factor_gradients_cuda(const Tensor& dy, const Tensor& x, const Tensor& h, const LoraWeight& weight,
                               const Tensor& g, std::span<const Tensor> da, std::span<const Tensor> db, bool add) {
  if (const Declined reason = check_matrices(dy, weight.scaled_b(), g)) return reason;
  if (const Declined reason = check_matrices(x, weight.a(), h)) return reason;
  if (h.size(1) != g.size(1)) return "h and g of different ranks";
  if (weight.blocks().size() > kMaxBlocks) return "more than 8 siblings";
  const auto defined = [](const Tensor& t) { return t.defined(); };
  if (std::ranges::none_of(db, defined)) return "no gradient of B is wanted";
  bool ran = false;
  visit(dy.dtype(), g.size(1), [&](auto zero, auto rank) {
    using T = decltype(zero);
    constexpr int kRank = rank;
    const Siblings siblings = siblings_of(weight, da, db, add);
    Project<T> p = {};
    p.x = pointer<T>(dy);
    p.factor = pointer<T>(weight.scaled_b());
    p.out = pointer<T>(g);
    p.x_stride = dy.stride(0);
    p.factor_stride = weight.scaled_b().stride(0);
    p.out_stride = g.stride(0);
    p.rows = static_cast<int>(dy.size(0));
    p.columns = static_cast<int>(dy.size(1));
    p.h = pointer<T>(h);
    p.h_stride = h.stride(0);
    p.siblings = siblings;
    const int ranges = plan<T, kRank, true>(p);
    ran = ranges > 0;
    if (!ran) return;
    const Tensor partial = Tensor::empty({ranges, dy.size(1), kRank}, DType::f32, dy.device());
    p.partial = pointer<float>(partial);
    run<T, kRank, true>("lora_gradient_b", p, ranges);

    if (std::ranges::none_of(da, defined)) {
      launch({"lora_gradient_b", bytes_of<float>(ranges + 1, dy.size(1) * kRank)}, add_partials_kernel<kRank>,
             {.grid = dim3(std::min(blocks_for(dy.size(1) * kRank, kThreads), 1024U)),
              .block = dim3(kThreads),
              .overlap = true},
             p.partial, ranges, p.columns, siblings);
      return;
    }
    Outer<T> o = {};
    o.x = pointer<T>(x);
    o.g = pointer<T>(g);
    o.x_stride = x.stride(0);
    o.g_stride = g.stride(0);
    o.rows = p.rows;
    o.columns = static_cast<int>(x.size(1));
    // Narrow matrices in half as wide pieces, so that every multiprocessor has one.
    const int wide = (o.columns + kTile - 1) / kTile * kCluster;
    o.cluster_columns = 2 * wide <= info(x.device().index).multiprocessors ? kTile / 2 : kTile;
    o.block_rows = static_cast<int>(round_up((o.rows + kCluster - 1) / kCluster, kOuterRows));
    o.partial = p.partial;
    o.ranges = ranges;
    o.n = p.columns;
    o.siblings = siblings;
    run_outer<T, kRank>(o);
  });
  return ran ? nullptr : "no cluster of 8 blocks fits on the device";
}

}  // namespace

void register_lora_linear() {
  lora_project.on(DeviceType::cuda) = project_cuda;
  lora_factor_gradients.on(DeviceType::cuda) = factor_gradients_cuda;
}

}  // namespace wick::cuda
