#include <algorithm>
#include <array>
#include <map>
#include <mutex>

#include "backend/cuda/row_plan.h"
#include "backend/cuda/tensor_map.h"
#include "ops/lora_linear/lora_linear.h"
#include "ops/lora_linear/lora_outer.cuh"
#include "ops/lora_linear/lora_project.cuh"

namespace wick::cuda {
namespace {

using namespace skinny;

/// Calls fn(T{}, std::integral_constant<int, R>{}) for a 16-bit type and a rank of kRanks.
template <int... kRanks, class Fn>
void visit(DType dtype, std::int64_t rank, Fn&& fn) {
  const auto with_rank = [&](auto zero) {
    (void)((rank == kRanks && (fn(zero, std::integral_constant<int, kRanks>{}), true)) || ...);
  };
  dtype == DType::bf16 ? with_rank(__nv_bfloat16{}) : with_rank(__half{});
}

#ifdef WICK_SM_90A
constexpr bool kCompiled = true;
#else
constexpr bool kCompiled = false;
#endif

constexpr Declined kUnaligned = "rows that are not aligned to 16 bytes";

/// Null if the kernels, for ranks of up to `most`, take these: a matrix [tokens, columns] and one [tokens, rank].
Declined check_matrices(const Tensor& tall, const Tensor& narrow, std::int64_t most) {
  if (!kCompiled || info(tall.device().index).major != 9) return "no code for sm_90a, or not such a device";
  if (tall.dtype() != DType::bf16 && tall.dtype() != DType::f16) return "neither bf16 nor f16";
  const std::int64_t rank = narrow.size(1);
  if (rank == 0 || rank % 16 != 0 || rank > most) return "a rank that is no multiple of 16, or too high";
  if (tall.size(0) == 0 || tall.size(1) == 0 || tall.size(1) % 8 != 0) return "no multiple of 8 columns";
  if (tall.size(0) > (1 << 30) || tall.size(1) > (1 << 30)) return "an extent past 2^30";
  if (!packs(tall) || !packs(narrow)) return kUnaligned;
  return nullptr;
}

template <class T>
double bytes_of(std::int64_t rows, std::int64_t columns) {
  return static_cast<double>(rows) * static_cast<double>(columns) * sizeof(T);
}

/// How many clusters of each size run at a time; none of more than largest_cluster() blocks. The device's
/// multiprocessors come in groups that large clusters do not fill: 132 hold 15 clusters of 8 blocks of their own.
struct ClustersAtOnce {
  std::array<int, kMaxCluster + 1> of = {};

  template <class Kernel>
  ClustersAtOnce(Kernel* kernel, std::size_t shared, unsigned threads = kThreads, bool packed = false) {
    for (unsigned size = 1; size <= largest_cluster(); ++size) {
      of[size] = resident_clusters(reinterpret_cast<const void*>(kernel), threads, size, shared, packed);
    }
  }
};

/// What make() says on the current device, where it is asked once.
template <class Make>
const auto& once_a_device(const Make& make) {
  static std::mutex mutex;
  static std::map<int, decltype(make())> known;
  const std::scoped_lock lock(mutex);
  const auto found = known.find(current_device());
  return found != known.end() ? found->second : known.emplace(current_device(), make()).first->second;
}

/// Ranges of `boxes` boxes of rows each, `count` of them, for clusters of `cluster` blocks.
struct Ranges {
  int cluster = 1, boxes = 1, count = 1;
};

/// Divides `boxes` boxes of rows, at most `most` to a range, so that all blocks run at once and most multiprocessors
/// have one: by the largest cluster, which makes for the fewest ranges.
Ranges divide(int boxes, int most, const ClustersAtOnce& at_once) {
  Ranges best;
  best.boxes = most;
  best.count = (boxes + most - 1) / most;
  int busy = 0;
  for (int size = kMaxCluster; size > 0; --size) {
    const int clusters = at_once.of[static_cast<std::size_t>(size)];
    if (clusters == 0 || boxes > clusters * most) continue;
    const int each = (boxes + clusters - 1) / clusters;
    const int count = (boxes + each - 1) / each;
    if (count * size <= busy) continue;
    best = {size, each, count};
    busy = count * size;
    if (4 * busy >= 3 * at_once.of[1]) break;
  }
  return best;
}

/// Divides the rows into ranges and launches; the number of ranges. `partial_of` makes the memory for that many partial
/// sums.
template <class T, int R, class PartialOf>
int run_project(Project<T>& p, const PartialOf& partial_of) {
  using Shape = ProjectShape<R>;
  const ClustersAtOnce& at_once = once_a_device([] { return ClustersAtOnce(project_kernel<T, R>, Shape::kBytes); });
  const Ranges ranges = divide((p.rows + kBox - 1) / kBox, Shape::kMaxRowBoxes, at_once);
  p.boxes = ranges.boxes;
  p.partial = partial_of(ranges.count);
  launch({"lora_gradient_b", bytes_of<T>(p.rows, p.columns + 2 * R) + bytes_of<T>(p.columns, R),
          4.0 * p.rows * p.columns * R},
         project_kernel<T, R>,
         {.grid = dim3(static_cast<unsigned>(ranges.count * ranges.cluster)),
          .block = dim3(kThreads),
          .shared = Shape::kBytes,
          .overlap = true,
          .cluster = static_cast<unsigned>(ranges.cluster)},
         p);
  return ranges.count;
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

/// A matrix of run_outer(): x with g, or dy with h.
struct Product {
  Tensor tall, narrow;
  bool of_b = false;
};

/// One product or two, with the same rows; the blocks of the first begin first.
template <class T, int R>
void run_outer(Outer& p, const char* name, std::span<const Product> products) {
  using Shape = OuterShape<R>;
  const ClustersAtOnce& at_once = once_a_device([] {
    // Else the driver may leave L1 what the second block on a multiprocessor needs.
    check(cudaFuncSetAttribute(outer_kernel<T, R>, cudaFuncAttributePreferredSharedMemoryCarveout,
                               cudaSharedmemCarveoutMaxShared),
          "a block's shared memory");
    return ClustersAtOnce(outer_kernel<T, R>, Shape::kBytes, Shape::kThreads, true);
  });
  const std::int64_t rows = products[0].tall.size(0);
  int boxes[OuterPlan::kMatrices] = {};
  double bytes = 0;
  double flops = 0;
  for (std::size_t i = 0; i < products.size(); ++i) {
    const Product& product = products[i];
    const std::int64_t columns = product.tall.size(1);
    boxes[i] = static_cast<int>(blocks_for(columns, kBox));
    bytes += bytes_of<T>(rows, columns + R) + bytes_of<float>(R, columns);
    flops += 2.0 * static_cast<double>(rows) * static_cast<double>(columns) * R;
  }
  // Nearly all blocks read the narrow matrix from L2, which costs a part of what memory does.
  constexpr int kNarrowCost = Shape::kNarrow / 4;
  p.plan = OuterTrial::settle(
      plan_outer(static_cast<int>(blocks_for(rows, Shape::kRows)), boxes, kNarrowCost, at_once.of, Shape::kMostBoxes));
  for (std::size_t i = 0; i < products.size(); ++i) {
    const Product& product = products[i];
    const int across = p.plan.columns[i].size(0);
    const int slots = Shape::slots(across);
    p.matrices[i] = {.tall = boxes_of(product.tall, Shape::kRows, kBox),
                     .narrow = narrow_boxes_of(product.narrow, Shape::kRows),
                     .columns = static_cast<int>(product.tall.size(1)),
                     .slots = slots,
                     .narrow_slots = Shape::narrow_slots(slots, across),
                     .of_b = product.of_b};
  }
  launch({name, bytes, flops}, outer_kernel<T, R>,
         {.grid = dim3(static_cast<unsigned>(p.plan.clusters() * p.plan.cluster())),
          .block = dim3(Shape::kThreads),
          .shared = Shape::kBytes,
          .overlap = true,
          .cluster = static_cast<unsigned>(p.plan.cluster()),
          .packed = true},
         p);
}

bool any_defined(std::span<const Tensor> tensors) {
  return std::ranges::any_of(tensors, [](const Tensor& t) { return t.defined(); });
}

Declined factor_gradients_cuda(const Tensor& dy, const Tensor& x, const Tensor& h, const LoraWeight& weight,
                               const Tensor& g, std::span<const Tensor> da, std::span<const Tensor> db, bool add) {
  if (const Declined reason = check_matrices(dy, g, 32)) return reason;
  if (const Declined reason = check_matrices(x, h, 32)) return reason;
  if (!packs(weight.scaled_b())) return kUnaligned;
  if (h.size(1) != g.size(1)) return "h and g of different ranks";
  if (weight.blocks().size() > kMaxBlocks) return "more than 8 siblings";
  if (!any_defined(db)) return "no gradient of B is wanted";
  visit<16, 32>(dy.dtype(), g.size(1), [&](auto zero, auto rank) {
    using T = decltype(zero);
    constexpr int kRank = rank;
    const Siblings siblings = siblings_of(weight, da, db, add);
    Project<T> p = {};
    p.dy = boxes_of(dy, kBox, kBox);
    p.b = narrow_boxes_of(weight.scaled_b(), kBox);
    p.h = narrow_boxes_of(h, kBox);
    p.g = pointer<T>(g);
    p.g_stride = g.stride(0);
    p.rows = static_cast<int>(dy.size(0));
    p.columns = static_cast<int>(dy.size(1));
    p.siblings = siblings;
    Tensor partial;
    const int ranges = run_project<T, kRank>(p, [&](int count) {
      partial = Tensor::empty({count, dy.size(1), kRank}, DType::f32, dy.device());
      return pointer<float>(partial);
    });

    if (!any_defined(da)) {
      launch({"lora_gradient_b", bytes_of<float>(ranges + 1, dy.size(1) * kRank)}, add_partials_kernel<kRank>,
             {.grid = dim3(std::min(blocks_for(dy.size(1) * kRank, kMultiplying), 1024U)),
              .block = dim3(kMultiplying),
              .overlap = true},
             p.partial, ranges, p.columns, siblings);
      return;
    }
    Outer o = {};
    o.partial = p.partial;
    o.ranges = ranges;
    o.n = p.columns;
    o.siblings = siblings;
    const Product of_a = {x, g};
    run_outer<T, kRank>(o, "lora_gradient_a", {&of_a, 1});
  });
  return nullptr;
}

Declined outer_products_cuda(const Tensor& dy, const Tensor& x, const Tensor& h, const Tensor& g,
                             const LoraWeight& weight, std::span<const Tensor> da, std::span<const Tensor> db,
                             bool add) {
  if (const Declined reason = check_matrices(dy, h, 48)) return reason;
  if (const Declined reason = check_matrices(x, g, 48)) return reason;
  if (h.size(1) != g.size(1)) return "h and g of different ranks";
  if (weight.blocks().size() > kMaxBlocks) return "more than 8 siblings";
  Product products[OuterPlan::kMatrices];
  std::size_t count = 0;
  // The kernel before read dy to make dx: what L2 still has of it is best read at once.
  if (any_defined(db)) products[count++] = {dy, h, true};
  if (any_defined(da)) products[count++] = {x, g};
  if (count == 0) return nullptr;
  visit<16, 32, 48>(x.dtype(), g.size(1), [&](auto zero, auto rank) {
    Outer p = {};
    p.siblings = siblings_of(weight, da, db, add);
    const char* const name = count == 2 ? "lora_gradients" : any_defined(da) ? "lora_gradient_a" : "lora_gradient_b";
    run_outer<decltype(zero), rank>(p, name, {products, count});
  });
  return nullptr;
}

}  // namespace

void register_lora_linear() {
  lora_factor_gradients.on(DeviceType::cuda) = factor_gradients_cuda;
  lora_outer_products.on(DeviceType::cuda) = outer_products_cuda;
}

}  // namespace wick::cuda
