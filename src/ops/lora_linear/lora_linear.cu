#include <algorithm>
#include <array>

#include "backend/cuda/row_plan.h"
#include "backend/cuda/tensor_map.h"
#include "ops/lora_linear/lora_linear.h"
#include "ops/lora_linear/lora_skinny.cuh"

namespace wick::cuda {
namespace {

using namespace skinny;

/// Calls fn(T{}, std::integral_constant<int, R>{}) for a 16-bit type and a rank of 16 or 32.
template <class Fn>
void visit(DType dtype, std::int64_t rank, Fn&& fn) {
  const auto with_rank = [&](auto zero) {
    rank == 16 ? fn(zero, std::integral_constant<int, 16>{}) : fn(zero, std::integral_constant<int, 32>{});
  };
  dtype == DType::bf16 ? with_rank(__nv_bfloat16{}) : with_rank(__half{});
}

#ifdef WICK_SM_90A
constexpr bool kCompiled = true;
#else
constexpr bool kCompiled = false;
#endif

constexpr Declined kUnaligned = "rows that are not aligned to 16 bytes";

/// Null if the kernels take these: a matrix [tokens, columns] and one [tokens, rank].
Declined check_matrices(const Tensor& tall, const Tensor& narrow) {
  if (!kCompiled || info(tall.device().index).major != 9) return "no code for sm_90a, or not such a device";
  if (tall.dtype() != DType::bf16 && tall.dtype() != DType::f16) return "neither bf16 nor f16";
  const std::int64_t rank = narrow.size(1);
  if (rank != 16 && rank != 32) return "neither a rank of 16 nor of 32";
  if (tall.size(0) == 0 || tall.size(1) == 0 || tall.size(1) % 8 != 0) return "no multiple of 8 columns";
  if (tall.size(0) > (1 << 30) || tall.size(1) > (1 << 30)) return "an extent past 2^30";
  if (!packs(tall) || !packs(narrow)) return kUnaligned;
  return nullptr;
}

std::int64_t round_up(std::int64_t value, std::int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

template <class T>
double bytes_of(std::int64_t rows, std::int64_t columns) {
  return static_cast<double>(rows) * static_cast<double>(columns) * sizeof(T);
}

/// How many clusters of each size run at a time. The device's multiprocessors come in groups that large clusters do not
/// fill: 132 hold 15 clusters of 8 blocks of their own.
struct ClustersAtOnce {
  std::array<int, kMaxCluster + 1> of = {};

  template <class Kernel>
  ClustersAtOnce(Kernel* kernel, std::size_t shared) {
    for (unsigned size = 1; size <= kMaxCluster; ++size) {
      of[size] = resident_clusters(reinterpret_cast<const void*>(kernel), kThreads, size, shared);
    }
  }
};

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
  static const ClustersAtOnce at_once(project_kernel<T, R>, Shape::kBytes);
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

template <class T, int R>
void run_outer(Outer<T>& p) {
  static const ClustersAtOnce at_once(outer_kernel<T, R>, OuterShape<R>::kBytes);
  // Few columns by 64, so that more of the multiprocessors have some.
  const int wide = static_cast<int>(blocks_for(p.columns, kGroups * kBox));
  p.halves = 2 * wide <= at_once.of[kMaxCluster];
  const int clusters = p.halves ? static_cast<int>(blocks_for(p.columns, kBox)) : wide;
  int cluster = static_cast<int>(kMaxCluster);
  while (cluster > 1 && clusters > at_once.of[static_cast<std::size_t>(cluster)]) --cluster;
  p.block_rows = static_cast<int>(round_up((p.rows + cluster - 1) / cluster, p.halves ? kGroups * kBox : kBox));
  launch({"lora_gradient_a", bytes_of<T>(p.rows, p.columns + R) + bytes_of<float>(R, p.columns),
          2.0 * p.rows * p.columns * R},
         outer_kernel<T, R>,
         {.grid = dim3(static_cast<unsigned>(clusters * cluster)),
          .block = dim3(kThreads),
          .shared = OuterShape<R>::kBytes,
          .overlap = true,
          .cluster = static_cast<unsigned>(cluster)},
         p);
}

Declined factor_gradients_cuda(const Tensor& dy, const Tensor& x, const Tensor& h, const LoraWeight& weight,
                               const Tensor& g, std::span<const Tensor> da, std::span<const Tensor> db, bool add) {
  if (const Declined reason = check_matrices(dy, g)) return reason;
  if (const Declined reason = check_matrices(x, h)) return reason;
  if (!packs(weight.scaled_b())) return kUnaligned;
  if (h.size(1) != g.size(1)) return "h and g of different ranks";
  if (weight.blocks().size() > kMaxBlocks) return "more than 8 siblings";
  const auto defined = [](const Tensor& t) { return t.defined(); };
  if (std::ranges::none_of(db, defined)) return "no gradient of B is wanted";
  visit(dy.dtype(), g.size(1), [&](auto zero, auto rank) {
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

    if (std::ranges::none_of(da, defined)) {
      launch({"lora_gradient_b", bytes_of<float>(ranges + 1, dy.size(1) * kRank)}, add_partials_kernel<kRank>,
             {.grid = dim3(std::min(blocks_for(dy.size(1) * kRank, kMultiplying), 1024U)),
              .block = dim3(kMultiplying),
              .overlap = true},
             p.partial, ranges, p.columns, siblings);
      return;
    }
    Outer<T> o = {};
    o.x = boxes_of(x, kBox, kBox);
    o.g = narrow_boxes_of(g, kBox);
    o.rows = p.rows;
    o.columns = static_cast<int>(x.size(1));
    o.partial = p.partial;
    o.ranges = ranges;
    o.n = p.columns;
    o.siblings = siblings;
    run_outer<T, kRank>(o);
  });
  return nullptr;
}

}  // namespace

void register_lora_linear() { lora_factor_gradients.on(DeviceType::cuda) = factor_gradients_cuda; }

}  // namespace wick::cuda
