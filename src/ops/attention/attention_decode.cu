// Attention of single queries with long caches (flash-decoding). A cluster of blocks shares the keys of a query and
// sends what they sum up to to each other's shared memory; only where a cache is long do several clusters share them,
// and the last one to finish joins what they left in global memory. How many there may be follows from shapes, how many
// have anything to do from the lengths on the device, so a captured launch stays right while the cache grows. A block
// serves all heads of a group (up to eight): keys and values are read once, and its products are those of tensor cores
// where rows can be read in 16-byte pieces.

#include "backend/cuda/row_plan.h"
#include "ops/attention/attention_decode_plan.h"
#include "ops/attention/attention_decode_sums.cuh"

namespace wick::cuda {
namespace {

constexpr int kMaxCounters = 4096;

// Of each unit with several clusters, for each rank in them: how many blocks have left their sums. The last one sets it
// back to 0. All launches go to one stream and none passes wait_for_previous() before the other has ended, so they
// can share the counters; fresh ones would have to be cleared by a launch of their own.
__device__ unsigned finished[kMaxCounters];

template <class By>
__global__ void __launch_bounds__(kDecodeThreads, By::kBlocks) decode_kernel(const DecodeArguments<typename By::T> in) {
  using T = typename By::T;
  allow_next();
  cluster_arrive_first();  // none sends to a block that has not begun
  const AttentionProblem& p = in.problem;
  const auto thread = static_cast<int>(threadIdx.x);
  const auto blocks = static_cast<int>(cluster_blocks());
  const auto rank = static_cast<int>(cluster_rank());
  const int tile = By::tile(in);
  const DecodeUnit unit(in, By::kHeads);
  if (!in.added.at_rest) {
    prefetch_share(in, unit, tile, By::kTiles);
    wait_for_previous();
  }
  cluster_wait();
  typename By::Query query(in, unit);
  const DecodeShare share(p, unit, in.clusters, tile, By::kTiles);
  if (unit.cluster >= share.clusters) return wait_for_previous();

  // Each warp leaves a part of all elements. Of the elements each block of the cluster joins a slice.
  auto* const of_warps = reinterpret_cast<float*>(dynamic_shared());
  const int head_packs = By::width(in) / 4;
  const PartShape whole = {By::kHeads * head_packs, By::kHeads};
  const PartShape slice = {whole.packs / blocks, By::kHeads};
  float* const received = of_warps + kDecodeWarps * whole.floats();
  const int working = ::min(kDecodeWarps, (share.end - share.begin + tile - 1) / tile);
  if (thread / 32 < working) By::sum(in, unit, share, query, of_warps + thread / 32 * whole.floats());
  wait_for_previous();  // those that have had no reason to
  __syncthreads();
#pragma unroll 1
  for (int pack = thread; pack < unit.head_count * head_packs; pack += kDecodeThreads) {
    const int head = pack / head_packs;
    const Joined of_block = join<false>(of_warps, working, whole, pack, head);
    float* const mine = received + rank * slice.floats();
    store_pack(in_block(mine, static_cast<unsigned>(pack / slice.packs)) + pack % slice.packs * 4, of_block.sums);
    if (pack % head_packs != 0) continue;
#pragma unroll 1
    for (int to = 0; to < blocks; ++to) {
      in_block(mine, static_cast<unsigned>(to))[slice.highest(head)] = of_block.highest;
      in_block(mine, static_cast<unsigned>(to))[slice.total(head)] = of_block.total;
    }
  }
  cluster_sync();

  const int first_pack = rank * slice.packs;
  const int packs = ::min(slice.packs, unit.head_count * head_packs - first_pack);
  const auto finish = [&](int pack, const Joined& of_all) {
    const int head = unit.first_head + pack / head_packs;
    const int element = pack % head_packs * 4;
    T* const y = in.y.at(unit.token, head);
    const float factor = of_all.total == 0 ? 0.0F : 1 / of_all.total;
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      if (element + e >= p.head_dim) break;
      y[element + e] = from_float<T>(of_all.sums[e] * factor);
    }
    if (element == 0 && in.lse != nullptr) {
      in.lse[head * in.lse_row + unit.token] = log_sum_exp(of_all.highest, of_all.total, std::numbers::ln2_v<float>);
    }
  };
  const int counter = unit.index * blocks + rank;
  float* const of_clusters = in.parts + static_cast<std::int64_t>(counter) * in.clusters * slice.floats();
#pragma unroll 1
  for (int i = thread; i < packs; i += kDecodeThreads) {
    const int head = (first_pack + i) / head_packs;
    const Joined of_cluster = join<false>(received, blocks, slice, i, head);
    if (share.clusters == 1) {
      finish(first_pack + i, of_cluster);
      continue;
    }
    float* const mine = of_clusters + unit.cluster * slice.floats();
    store_pack(mine + 4 * i, of_cluster.sums);
    if (i == 0 || (first_pack + i) % head_packs == 0) {
      mine[slice.highest(head)] = of_cluster.highest;
      mine[slice.total(head)] = of_cluster.total;
    }
  }
  if (share.clusters == 1) return;
  __syncthreads();
  const auto others = static_cast<unsigned>(share.clusters - 1);
  if (__syncthreads_or(thread == 0 && count_up(&finished[counter], others) == others) == 0) return;
#pragma unroll 1
  for (int i = thread; i < packs; i += kDecodeThreads) {
    finish(first_pack + i, join<true>(of_clusters, share.clusters, slice, i, (first_pack + i) / head_packs));
  }
}

template <class By>
Declined decode(const DecodeArguments<typename By::T>& arguments, Device device) {
  using T = typename By::T;
  DecodeArguments<T> in = arguments;
  const AttentionProblem& p = in.problem;
  in.chunks = (p.group() + By::kHeads - 1) / By::kHeads;
  const std::int64_t units = static_cast<std::int64_t>(p.tokens) * p.kv_heads * in.chunks;
  const PartShape whole = {By::kHeads * By::width(in) / 4, By::kHeads};
  const auto slice_of = [&](int blocks) { return PartShape{whole.packs / blocks, By::kHeads}; };
  const auto shared = [&](int blocks) {
    return sizeof(float) * static_cast<std::size_t>(kDecodeWarps * whole.floats() + blocks * slice_of(blocks).floats());
  };
  const DeviceInfo& on = info(device.index);
  const auto resident = [&](int blocks) {
    if (blocks == 1) return on.multiprocessors * By::kBlocks;
    return resident_clusters(reinterpret_cast<const void*>(decode_kernel<By>), kDecodeThreads,
                             static_cast<unsigned>(blocks), shared(blocks));
  };
  const int tile = By::tile(in);
  const DecodeShape shape = {.units = units,
                             .keys = p.key_tokens,
                             .keys_at_once = kDecodeWarps * tile * By::kTiles,
                             .keys_of_a_warp = tile,
                             .head_dim = p.head_dim,
                             .element_bytes = static_cast<int>(sizeof(T))};
  const int largest = on.major >= 9 ? static_cast<int>(largest_cluster()) : 1;
  const auto [blocks, clusters] = choose_decode_plan(shape, largest, resident);
  in.clusters = units * blocks > kMaxCounters ? 1 : clusters;
  if (units * blocks > INT_MAX) return "more blocks than a grid has";
  const PartShape slice = slice_of(blocks);
  Tensor parts;
  if (in.clusters > 1) {
    parts = Tensor::empty(Shape{units, blocks, in.clusters, slice.floats()}, DType::f32, device);
    in.parts = pointer<float>(parts);
  }
  // Of a full cache; how much of it is read only the device knows.
  const double rows = static_cast<double>(p.heads) * p.tokens + static_cast<double>(p.kv_heads) * p.key_tokens;
  const Work work{"attention decode", rows * 2 * p.head_dim * sizeof(T), attention_flops(p, 2)};
  launch(work, decode_kernel<By>,
         {.grid = dim3(static_cast<unsigned>(units * in.clusters * blocks)),
          .block = dim3(kDecodeThreads),
          .shared = shared(blocks),
          .overlap = true,
          .cluster = static_cast<unsigned>(blocks)},
         in);
  return nullptr;
}

template <class T>
Declined decode_by_lanes(const DecodeArguments<T>& in, Device device) {
  switch (in.problem.group()) {
    case 1:
      return decode<ByLanes<T, 1>>(in, device);
    case 2:
      return decode<ByLanes<T, 2>>(in, device);
    case 3:
    case 4:
      return decode<ByLanes<T, 4>>(in, device);
    default:
      return decode<ByLanes<T, 8>>(in, device);
  }
}

template <class T>
DecodeArguments<T> decode_arguments(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionLayout& layout,
                                    const Tensor& y, const Tensor& lse) {
  const std::int64_t d = q.size(2);
  return {.problem = attention_problem(q, k, layout, {&q, &k, &v}),
          .q = by_heads<const T>(q),
          .k = by_heads<const T>(k),
          .v = by_heads<const T>(v),
          .y = by_heads<T>(y),
          .lse = pointer<float>(lse),
          .lse_row = lse.defined() ? lse.stride(0) : 0,
          .lanes = d <= 64    ? 8
                   : d <= 128 ? 16
                              : 32,
          .chunks = 1,
          .clusters = 1,
          .parts = nullptr};
}

}  // namespace

Declined attention_forward_decode(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionLayout& layout,
                                  const Tensor& y, const Tensor& lse) {
  if (layout.bias.defined()) return "a bias";
  return visit_narrow(q.dtype(), [&]<class T>(T) -> Declined {
    const auto in = decode_arguments<T>(q, k, v, layout, y, lse);
    if constexpr (sizeof(T) == 2) {
      if (in.problem.vectors && in.problem.head_dim % 8 == 0) {
        if (in.problem.head_dim <= 64) return decode<ByTensorCores<T, 1, false>>(in, q.device());
        if (in.problem.head_dim <= 128) return decode<ByTensorCores<T, 2, false>>(in, q.device());
        return decode<ByTensorCores<T, 4, false>>(in, q.device());
      }
    }
    return decode_by_lanes(in, q.device());
  });
}

Declined attention_append_cuda(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& cos, const Tensor& sin,
                               const AttentionLayout& layout, const Tensor& keys, const Tensor& values, bool at_rest,
                               const Tensor& y) {
  const std::int64_t d = q.size(2);
  if (q.dtype() == DType::f64) return "f64";
  if (layout.bias.defined()) return "a bias";
  if (d != 64 && d != 128) return "a head dimension other than 64 and 128";
  if (cos.size(0) == 0 || keys.size(0) == 0) return "a table or a cache without rows";
  if (!vectors_in({&q, &k, &v, &keys, &values}) || !packs(cos) || !packs(sin)) {
    return "rows that are not aligned to 16 bytes";
  }
  return visit_narrow(q.dtype(), [&]<class T>(T) -> Declined {
    if constexpr (sizeof(T) == 2) {
      auto in = decode_arguments<T>(q, keys, values, layout, y, Tensor());
      in.added = {.k = by_heads<const T>(k),
                  .v = by_heads<const T>(v),
                  .keys = pointer<T>(keys),
                  .values = pointer<T>(values),
                  .cos = pointer<float>(cos),
                  .sin = pointer<float>(sin),
                  .rows = static_cast<int>(::min(cos.size(0), keys.size(0))),
                  .at_rest = at_rest};
      if (d == 64) return decode<ByTensorCores<T, 1, true>>(in, q.device());
      return decode<ByTensorCores<T, 2, true>>(in, q.device());
    }
    return "neither bf16 nor f16";
  });
}

}  // namespace wick::cuda
