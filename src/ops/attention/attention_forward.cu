// Attention of bf16 and f16 on tensor cores (FlashAttention-2, Dao 2023): a block holds a tile of queries and walks
// over the keys they see, two tiles of keys and values in flight, the softmax kept as a running maximum and sum. Scores
// never leave registers: their accumulators are the left operand of the product with the values.

#include "ops/attention/attention_tile.cuh"

namespace wick::cuda {
namespace {

template <class T>
struct ForwardArguments {
  AttentionProblem problem;
  Heads<const T> q, k, v;
  Heads<T> y;
  float* lse;  // null: not wanted
  std::int64_t lse_row;
  int slots;
};

// 32 query rows a warp where registers allow: each fragment of keys and values is then used twice, which is what keeps
// shared memory from being the limit.
template <int kHeadDim>
struct ForwardShape {
  static constexpr int kDim = kHeadDim;
  static constexpr int kAtoms = kDim <= 128 ? 2 : 1;
  static constexpr int kThreads = 128;
  static constexpr int kBlocks = kDim == 64 ? 3 : 2;  // on a multiprocessor
  static constexpr int kWarpRows = 16 * kAtoms;
  static constexpr int kQueries = kWarpRows * kThreads / 32;
  static constexpr int kKeys = kDim <= 128 ? 64 : 32;
  static constexpr std::size_t kShared = (kQueries + 4 * kKeys) * kDim * 2;
};

// The running softmax of a warp's rows: takes scores in, leaves weights 2^(score - maximum) in their place and rescales
// what was summed before.
template <class Shape>
struct Softmax {
  float highest[Shape::kAtoms][2];
  float total[Shape::kAtoms][2];  // this lane's columns only

  __device__ Softmax() {
    each_row<Shape::kAtoms>([&](int a, int h, int) {
      highest[a][h] = -INFINITY;
      total[a][h] = 0.0F;
    });
  }

  __device__ void update(Accumulators<Shape::kAtoms, Shape::kKeys>& scores,
                         Accumulators<Shape::kAtoms, Shape::kDim>& sums, float scale_log2) {
    each_row<Shape::kAtoms>([&](int a, int h, int) {
      float top = highest[a][h];
#pragma unroll
      for (int n = 0; n < Shape::kKeys / 8; ++n) {
        top = fmaxf(top, fmaxf(scores[a][n][2 * h], scores[a][n][2 * h + 1]));
      }
      top = quad_max(top);
      const float base = top == -INFINITY ? 0.0F : top * scale_log2;
      const float keep = fast_exp2(highest[a][h] * scale_log2 - base);
      highest[a][h] = top;
      float sum = 0.0F;
#pragma unroll
      for (int n = 0; n < Shape::kKeys / 8; ++n) {
#pragma unroll
        for (int e = 2 * h; e < 2 * h + 2; ++e) {
          scores[a][n][e] = fast_exp2(fmaf(scores[a][n][e], scale_log2, -base));
          sum += scores[a][n][e];
        }
      }
      total[a][h] = total[a][h] * keep + sum;
#pragma unroll
      for (int n = 0; n < Shape::kDim / 8; ++n) {
        sums[a][n][2 * h] *= keep;
        sums[a][n][2 * h + 1] *= keep;
      }
    });
  }
};

template <class T, int kDim>
__global__ void __launch_bounds__(ForwardShape<kDim>::kThreads, ForwardShape<kDim>::kBlocks)
    forward_kernel(const ForwardArguments<T> in) {
  using Shape = ForwardShape<kDim>;
  constexpr int kAtoms = Shape::kAtoms;
  constexpr int kKeys = Shape::kKeys;
  const AttentionProblem& p = in.problem;
  // The last tiles of a sequence see most keys: they go first.
  const auto block = static_cast<int>(blockIdx.x);
  const int head = block % p.heads;
  const AttentionTile tile = find_tile(p, Side::queries, Shape::kQueries, in.slots - 1 - block / p.heads);
  if (tile.count == 0) return;
  const Sequence& s = tile.sequence;
  const int kv_head = head / p.group();

  T* const queries = reinterpret_cast<T*>(tile_memory());
  T* const keys = queries + Shape::kQueries * kDim;  // two tiles
  T* const values = keys + 2 * kKeys * kDim;
  const Meeting sees(p, s, Side::queries, tile.first, tile.count);
  const int steps = (sees.size() + kKeys - 1) / kKeys;
  const auto fetch = [&](int step) {
    const int at = sees.begin() + step * kKeys;
    const int stage = step % 2 * kKeys * kDim;
    const int count = ::min(kKeys, sees.begin() + sees.size() - at);
    copy_rows<kDim, kKeys, Shape::kThreads>(keys + stage, in.k.at(s.first_key + at, kv_head), in.k.row, count,
                                            p.head_dim, p.vectors);
    copy_rows<kDim, kKeys, Shape::kThreads>(values + stage, in.v.at(s.first_key + at, kv_head), in.v.row, count,
                                            p.head_dim, p.vectors);
  };
  if (steps > 0) {
    copy_rows<kDim, Shape::kQueries, Shape::kThreads>(queries, in.q.at(s.first_query + tile.first, head), in.q.row,
                                                      tile.count, p.head_dim, p.vectors);
    fetch(0);
  }

  const int warp_row = static_cast<int>(threadIdx.x) / 32 * Shape::kWarpRows;
  const int count = tile.count - warp_row;  // of this warp's rows, 0 or less where there are none
  const Meeting warp_sees(p, s, Side::queries, tile.first + warp_row, ::min(count, Shape::kWarpRows));
  const unsigned query_rows = left_fragment<kDim>(queries, warp_row);
  const unsigned key_rows = right_fragment<kDim>(keys, 0);
  const unsigned value_rows = left_fragment<kDim>(values, 0);
  const float scale_log2 = p.scale * std::numbers::log2e_v<float>;
  Accumulators<kAtoms, kDim> sums;
  clear<kAtoms, kDim>(sums);
  Softmax<Shape> softmax;
  for (int step = 0; step < steps; ++step) {
    wait_all_copies();
    __syncthreads();  // this step's tiles are here, and nobody reads the step before's
    if (step + 1 < steps) fetch(step + 1);
    const int stage = step % 2 * kKeys * kDim;
    const int at = sees.begin() + step * kKeys;
    if (warp_sees.never(at, kKeys)) continue;
    Accumulators<kAtoms, kKeys> scores;
    multiply_rows<T, kDim, kKeys, kAtoms>(scores, query_rows, key_rows + static_cast<unsigned>(stage * sizeof(T)));
    if (p.bias != nullptr) {
      each_row<kAtoms>([&](int a, int h, int row) {
#pragma unroll
        for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            scores[a][n][2 * h + e] += bias_of(p, s, head, tile.first + warp_row + row, at + lane_column(n, e));
          }
        }
      });
    }
    if (!warp_sees.always(at, kKeys)) {
      each_row<kAtoms>([&](int a, int h, int row) {
        const Range range = partners(p, s, Side::queries, tile.first + warp_row + row);
#pragma unroll
        for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            const int key = at + lane_column(n, e);
            if (key < range.begin || key >= range.end) scores[a][n][2 * h + e] = -INFINITY;
          }
        }
      });
    }
    softmax.update(scores, sums, scale_log2);
    add_product<T, kDim, kKeys, kAtoms>(sums, scores, value_rows + static_cast<unsigned>(stage * sizeof(T)));
  }

  // A warp's rows of the query tile are read by it alone: y leaves through them.
  each_row<kAtoms>([&](int a, int h, int) { softmax.total[a][h] = quad_sum(softmax.total[a][h]); });
  __syncwarp();
  stage_rows<kDim, kAtoms>(queries, warp_row, sums,
                           [&](int a, int h) { return softmax.total[a][h] == 0 ? 0.0F : 1.0F / softmax.total[a][h]; });
  __syncwarp();
  const int first = s.first_query + tile.first + warp_row;
  store_rows<kDim, Shape::kWarpRows>(queries, warp_row, in.y.at(first, head), in.y.row, count, p.head_dim, p.vectors);
  if (in.lse == nullptr || threadIdx.x % 4 != 0) return;
  each_row<kAtoms>([&](int a, int h, int row) {
    if (row < count) {
      in.lse[head * in.lse_row + first + row] = log_sum_exp(softmax.highest[a][h], softmax.total[a][h], p.scale);
    }
  });
}

template <class T, int kDim>
Declined forward(const ForwardArguments<T>& arguments) {
  using Shape = ForwardShape<kDim>;
  ForwardArguments<T> in = arguments;
  const AttentionProblem& p = in.problem;
  const std::int64_t slots = tile_slots(p, Side::queries, Shape::kQueries);
  if (slots * p.heads > INT_MAX) return "more blocks than a grid has";
  if (Shape::kShared > info().shared_bytes) return "its tiles do not fit this device's shared memory";
  in.slots = static_cast<int>(slots);
  const double rows = static_cast<double>(p.heads) * p.tokens + static_cast<double>(p.kv_heads) * p.key_tokens;
  const Work work{"attention forward", rows * 2 * p.head_dim * sizeof(T), attention_flops(p, 2)};
  launch(
      work, forward_kernel<T, kDim>,
      {.grid = dim3(static_cast<unsigned>(slots * p.heads)), .block = dim3(Shape::kThreads), .shared = Shape::kShared},
      in);
  return nullptr;
}

}  // namespace

Declined attention_forward_tensor_cores(const Tensor& q, const Tensor& k, const Tensor& v,
                                        const AttentionLayout& layout, const Tensor& y, const Tensor& lse) {
  const auto run = [&]<class T>(T) {
    const ForwardArguments<T> in{.problem = attention_problem(q, k, layout, {&q, &k, &v, &y}),
                                 .q = by_heads<const T>(q),
                                 .k = by_heads<const T>(k),
                                 .v = by_heads<const T>(v),
                                 .y = by_heads<T>(y),
                                 .lse = pointer<float>(lse),
                                 .lse_row = lse.defined() ? lse.stride(0) : 0,
                                 .slots = 0};
    if (q.size(2) <= 64) return forward<T, 64>(in);
    if (q.size(2) <= 128) return forward<T, 128>(in);
    return forward<T, 256>(in);
  };
  return q.dtype() == DType::bf16 ? run(__nv_bfloat16{}) : run(__half{});
}

}  // namespace wick::cuda
