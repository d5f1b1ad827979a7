// The gradient of attention in bf16 and f16 on tensor cores, in the manner of FlashAttention-2 (Dao 2023), without
// atomics: one kernel, run once over tiles of keys for dk and dv and once over tiles of queries for dq. A block holds
// the rows of its own side and walks over those of the other that they have to do with:
//
//   own side   a1 a2   b1 b2     s = a1 b1ᵀ, t = a2 b2ᵀ, w = 2^(s - lse), d = w (t - delta)
//   keys       k  v    q  dy     dk += d q    dv += w dy
//   queries    q  dy   k  v      dq += d k
//
// Scores stand with the own side's rows down, so that w and d are the left operand of the last products as they are.

#include "ops/attention/attention_tile.cuh"

namespace wick::cuda {
namespace {

template <class T>
struct BackwardArguments {
  AttentionProblem problem;
  Heads<const T> q, k, v, dy;
  Heads<T> dq, dk, dv;  // null data: not wanted
  const float* lse;
  std::int64_t lse_row;
  const float* delta;  // [heads, tokens]
  // Blocks that share a tile of keys: each takes a part of the group's heads and leaves its sums as attention_join()
  // reads them. With one split there is no such buffer.
  float* parts;
  int splits;
  int slots;
};

// dk and dv are two accumulators: with 128 columns 32 rows of them do not fit a warp's registers.
template <int kHeadDim, Side kSide>
struct BackwardShape {
  static constexpr int kDim = kHeadDim;
  static constexpr bool kKeysOwn = kSide == Side::keys;
  static constexpr int kAtoms = kKeysOwn && kDim > 64 ? 1 : 2;
  static constexpr int kThreads = 128;
  static constexpr int kWarpRows = 16 * kAtoms;
  static constexpr int kRows = kWarpRows * kThreads / 32;
  static constexpr int kPartners = !kKeysOwn && kDim > 64 ? 32 : 64;  // rows of the other side in a tile
  static constexpr int kColumns = kAtoms == 1 ? 64 : 32;              // of them at once in registers
  static constexpr std::size_t kShared =
      (2 * kRows + 4 * kPartners) * kDim * 2 + (kKeysOwn ? 4 * kPartners * sizeof(float) : 0);
};

// Accumulators times `scale` to f32 rows.
template <int kDim, int kAtoms>
__device__ inline void store_floats(const Accumulators<kAtoms, kDim>& c, float scale, float* to,
                                    std::int64_t row_stride, int count, int head_dim) {
  each_row<kAtoms>([&](int a, int h, int row) {
    if (row >= count) return;
#pragma unroll
    for (int n = 0; n < kDim / 8; ++n) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int column = lane_column(n, e);
        if (column < head_dim) to[row * row_stride + column] = c[a][n][2 * h + e] * scale;
      }
    }
  });
}

template <class T, int kDim, Side kSide>
__global__ void __launch_bounds__(BackwardShape<kDim, kSide>::kThreads, 2)
    backward_kernel(const BackwardArguments<T> in) {
  using Shape = BackwardShape<kDim, kSide>;
  constexpr bool kKeysOwn = Shape::kKeysOwn;
  constexpr int kAtoms = Shape::kAtoms;
  constexpr int kPartners = Shape::kPartners;
  constexpr int kColumns = Shape::kColumns;
  const AttentionProblem& p = in.problem;

  // Heaviest tiles first: the first keys are seen by most queries, the last queries see most keys.
  const auto block = static_cast<int>(blockIdx.x);
  const int part = kKeysOwn ? block % in.splits : 0;
  const int head = kKeysOwn ? block / in.splits % p.kv_heads : block % p.heads;  // of the own side
  const int slot = kKeysOwn ? block / (in.splits * p.kv_heads) : in.slots - 1 - block / p.heads;
  const AttentionTile tile = find_tile(p, kSide, Shape::kRows, slot);
  if (tile.count == 0) return;
  const Sequence& s = tile.sequence;
  const int first_own = (kKeysOwn ? s.first_key : s.first_query) + tile.first;
  const int first_partner = kKeysOwn ? s.first_query : s.first_key;
  // Heads of the other side: the own one's group, or the part of it that is this block's.
  const int head_begin = kKeysOwn ? head * p.group() + p.group() * part / in.splits : head / p.group();
  const int head_count = kKeysOwn ? head * p.group() + p.group() * (part + 1) / in.splits - head_begin : 1;

  T* const a1 = reinterpret_cast<T*>(tile_memory());
  T* const a2 = a1 + Shape::kRows * kDim;
  T* const b1 = a2 + Shape::kRows * kDim;  // two tiles
  T* const b2 = b1 + 2 * kPartners * kDim;
  float* const partner_rows = reinterpret_cast<float*>(b2 + 2 * kPartners * kDim);  // two of lse, delta (own: keys)
  const Heads<const T>& from_a1 = kKeysOwn ? in.k : in.q;
  const Heads<const T>& from_a2 = kKeysOwn ? in.v : in.dy;
  const Heads<const T>& from_b1 = kKeysOwn ? in.q : in.k;
  const Heads<const T>& from_b2 = kKeysOwn ? in.dy : in.v;

  const Meeting meets(p, s, kSide, tile.first, tile.count);
  const int tiles = (meets.size() + kPartners - 1) / kPartners;
  const int steps = tiles * head_count;
  const auto fetch = [&](int step) {
    const int partner_head = head_begin + step / tiles;
    const int at = meets.begin() + step % tiles * kPartners;
    const int count = ::min(kPartners, meets.begin() + meets.size() - at);
    const int stage = step % 2;
    copy_rows<kDim, kPartners, Shape::kThreads>(b1 + stage * kPartners * kDim,
                                                from_b1.at(first_partner + at, partner_head), from_b1.row, count,
                                                p.head_dim, p.vectors);
    copy_rows<kDim, kPartners, Shape::kThreads>(b2 + stage * kPartners * kDim,
                                                from_b2.at(first_partner + at, partner_head), from_b2.row, count,
                                                p.head_dim, p.vectors);
    if constexpr (kKeysOwn) {
      static_assert(Shape::kThreads == 2 * kPartners);
      const int row = static_cast<int>(threadIdx.x) % kPartners;
      const bool of_lse = static_cast<int>(threadIdx.x) < kPartners;
      const float* from =
          of_lse ? in.lse + partner_head * in.lse_row : in.delta + static_cast<std::int64_t>(partner_head) * p.tokens;
      const bool there = row < count;
      copy_async4(partner_rows + stage * 2 * kPartners + static_cast<int>(threadIdx.x),
                  from + (there ? first_partner + at + row : 0), there ? 4 : 0);
    }
  };
  if (steps > 0) {
    copy_rows<kDim, Shape::kRows, Shape::kThreads>(a1, from_a1.at(first_own, head), from_a1.row, tile.count, p.head_dim,
                                                   p.vectors);
    copy_rows<kDim, Shape::kRows, Shape::kThreads>(a2, from_a2.at(first_own, head), from_a2.row, tile.count, p.head_dim,
                                                   p.vectors);
    fetch(0);
  }

  const int warp_row = static_cast<int>(threadIdx.x) / 32 * Shape::kWarpRows;
  const int count = tile.count - warp_row;  // of this warp's rows, 0 or less where there are none
  const Meeting warp_meets(p, s, kSide, tile.first + warp_row, ::min(count, Shape::kWarpRows));
  const unsigned a1_rows = left_fragment<kDim>(a1, warp_row);
  const unsigned a2_rows = left_fragment<kDim>(a2, warp_row);
  const unsigned b1_columns = right_fragment<kDim>(b1, 0);
  const unsigned b2_columns = right_fragment<kDim>(b2, 0);
  const unsigned b1_rows = left_fragment<kDim>(b1, 0);
  const unsigned b2_rows = left_fragment<kDim>(b2, 0);
  const float scale_log2 = p.scale * std::numbers::log2e_v<float>;
  float lse[kAtoms][2];  // of the own rows, negative and in powers of two
  float delta[kAtoms][2];
  if constexpr (!kKeysOwn) {
    each_row<kAtoms>([&](int a, int h, int row) {
      const bool there = row < count;
      const int token = first_own + (there ? warp_row + row : 0);
      lse[a][h] = -in.lse[head * in.lse_row + token] * std::numbers::log2e_v<float>;
      delta[a][h] = in.delta[static_cast<std::int64_t>(head) * p.tokens + token];
    });
  }

  Accumulators<kAtoms, kDim> sum1;                 // dk or dq
  Accumulators<kAtoms, kKeysOwn ? kDim : 8> sum2;  // dv
  clear<kAtoms, kDim>(sum1);
  clear<kAtoms, kKeysOwn ? kDim : 8>(sum2);
  for (int step = 0; step < steps; ++step) {
    wait_all_copies();
    __syncthreads();  // this step's tiles are here, and nobody reads the step before's
    if (step + 1 < steps) fetch(step + 1);
    const float* const column_lse = partner_rows + step % 2 * 2 * kPartners;
    const float* const column_delta = column_lse + kPartners;
    const int tile_at = meets.begin() + step % tiles * kPartners;
#pragma unroll 1
    for (int from = 0; from < kPartners; from += kColumns) {
      const int at = tile_at + from;
      if (warp_meets.never(at, kColumns)) continue;
      Accumulators<kAtoms, kColumns> w;
      Accumulators<kAtoms, kColumns> d;
      const auto place = static_cast<unsigned>((step % 2 * kPartners + from) * kDim * sizeof(T));
      multiply_rows<T, kDim, kColumns, kAtoms>(w, a1_rows, b1_columns + place);
      multiply_rows<T, kDim, kColumns, kAtoms>(d, a2_rows, b2_columns + place);
      if (p.bias != nullptr) {
        const int query_head = kKeysOwn ? head_begin + step / tiles : head;
        each_row<kAtoms>([&](int a, int h, int row) {
          const int own = tile.first + warp_row + row;
#pragma unroll
          for (int n = 0; n < kColumns / 8; ++n) {
#pragma unroll
            for (int e = 0; e < 2; ++e) {
              const int partner = at + lane_column(n, e);
              w[a][n][2 * h + e] += bias_of(p, s, query_head, kKeysOwn ? partner : own, kKeysOwn ? own : partner);
            }
          }
        });
      }
#pragma unroll
      for (int n = 0; n < kColumns / 8; ++n) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int column = from + lane_column(n, e);
          const float of_column = kKeysOwn ? -column_lse[column] * std::numbers::log2e_v<float> : 0.0F;
          const float delta_of_column = kKeysOwn ? column_delta[column] : 0.0F;
#pragma unroll
          for (int a = 0; a < kAtoms; ++a) {
#pragma unroll
            for (int h = 0; h < 2; ++h) {
              float& weight = w[a][n][2 * h + e];
              float& gradient = d[a][n][2 * h + e];
              weight = fast_exp2(fmaf(weight, scale_log2, kKeysOwn ? of_column : lse[a][h]));
              gradient = weight * (gradient - (kKeysOwn ? delta_of_column : delta[a][h]));
            }
          }
        }
      }
      if (!warp_meets.always(at, kColumns)) {
        each_row<kAtoms>([&](int a, int h, int row) {
          const Range range = partners(p, s, kSide, tile.first + warp_row + row);
#pragma unroll
          for (int n = 0; n < kColumns / 8; ++n) {
#pragma unroll
            for (int e = 0; e < 2; ++e) {
              const int partner = at + lane_column(n, e);
              if (partner >= range.begin && partner < range.end) continue;
              w[a][n][2 * h + e] = 0.0F;
              d[a][n][2 * h + e] = 0.0F;
            }
          }
        });
      }
      if constexpr (kKeysOwn) add_product<T, kDim, kColumns, kAtoms>(sum2, w, b2_rows + place);
      add_product<T, kDim, kColumns, kAtoms>(sum1, d, b1_rows + place);
    }
  }

  const int first = first_own + warp_row;
  if (kKeysOwn && in.splits > 1) {
    const std::int64_t row = static_cast<std::int64_t>(p.kv_heads) * p.head_dim;
    float* const to = in.parts + (static_cast<std::int64_t>(part) * p.key_tokens + first) * row + head * p.head_dim;
    store_floats<kDim, kAtoms>(sum1, p.scale, to, row, count, p.head_dim);
    if constexpr (kKeysOwn) {
      store_floats<kDim, kAtoms>(sum2, 1.0F, to + in.splits * p.key_tokens * row, row, count, p.head_dim);
    }
    return;
  }
  // A warp's rows of the own tiles are read by it alone: the results leave through them.
  __syncwarp();
  const Heads<T>& to1 = kKeysOwn ? in.dk : in.dq;
  stage_rows<kDim, kAtoms>(a1, warp_row, sum1, [&](int, int) { return p.scale; });
  if constexpr (kKeysOwn) stage_rows<kDim, kAtoms>(a2, warp_row, sum2, [](int, int) { return 1.0F; });
  __syncwarp();
  if (to1.data != nullptr) {
    store_rows<kDim, Shape::kWarpRows>(a1, warp_row, to1.at(first, head), to1.row, count, p.head_dim, p.vectors);
  }
  if constexpr (kKeysOwn) {
    if (in.dv.data != nullptr) {
      store_rows<kDim, Shape::kWarpRows>(a2, warp_row, in.dv.at(first, head), in.dv.row, count, p.head_dim, p.vectors);
    }
  }
}

template <class T, int kDim>
Declined backward(const BackwardArguments<T>& arguments, const Tensor& dk, const Tensor& dv, Device device) {
  using KeyShape = BackwardShape<kDim, Side::keys>;
  using QueryShape = BackwardShape<kDim, Side::queries>;
  BackwardArguments<T> in = arguments;
  const AttentionProblem& p = in.problem;
  const std::int64_t key_slots = tile_slots(p, Side::keys, KeyShape::kRows);
  const std::int64_t query_slots = tile_slots(p, Side::queries, QueryShape::kRows);
  in.splits = attention_splits(p.key_tokens, p.kv_heads, p.group(), KeyShape::kRows);
  if (key_slots * p.kv_heads * in.splits > INT_MAX || query_slots * p.heads > INT_MAX) {
    return "more blocks than a grid has";
  }
  const double row_bytes = static_cast<double>(p.head_dim) * sizeof(T);
  const double query_bytes = row_bytes * p.heads * p.tokens;
  const double key_bytes = row_bytes * p.kv_heads * p.key_tokens;
  if (in.dk.data != nullptr || in.dv.data != nullptr) {
    in.slots = static_cast<int>(key_slots);
    Tensor parts;
    if (in.splits > 1) {
      parts = Tensor::empty(Shape{2, in.splits, p.key_tokens, p.kv_heads, p.head_dim}, DType::f32, device);
      in.parts = pointer<float>(parts);
    }
    const Work work{"attention backward dk dv", 2 * query_bytes + 4 * key_bytes, attention_flops(p, 4)};
    launch(work, backward_kernel<T, kDim, Side::keys>,
           {.grid = dim3(static_cast<unsigned>(key_slots * p.kv_heads * in.splits)),
            .block = dim3(KeyShape::kThreads),
            .shared = KeyShape::kShared},
           in);
    if (in.splits > 1) attention_join(parts, p, dk, dv);
  }
  if (in.dq.data != nullptr) {
    in.slots = static_cast<int>(query_slots);
    const Work work{"attention backward dq", 3 * query_bytes + 2 * key_bytes, attention_flops(p, 3)};
    launch(work, backward_kernel<T, kDim, Side::queries>,
           {.grid = dim3(static_cast<unsigned>(query_slots * p.heads)),
            .block = dim3(QueryShape::kThreads),
            .shared = QueryShape::kShared},
           in);
  }
  return nullptr;
}

}  // namespace

Declined attention_backward_tensor_cores(const Tensor& dy, const Tensor& q, const Tensor& k, const Tensor& v,
                                         const Tensor& y, const Tensor& lse, const AttentionLayout& layout,
                                         const Tensor& dq, const Tensor& dk, const Tensor& dv) {
  if (BackwardShape<128, Side::keys>::kShared > info().shared_bytes) {
    return "its tiles do not fit this device's shared memory";
  }
  const auto run = [&]<class T>(T) {
    BackwardArguments<T> in{.problem = attention_problem(q, k, layout, {&q, &k, &v, &dy, &dq, &dk, &dv}),
                            .q = by_heads<const T>(q),
                            .k = by_heads<const T>(k),
                            .v = by_heads<const T>(v),
                            .dy = by_heads<const T>(dy),
                            .dq = by_heads<T>(dq),
                            .dk = by_heads<T>(dk),
                            .dv = by_heads<T>(dv),
                            .lse = pointer<float>(lse),
                            .lse_row = lse.stride(0),
                            .delta = nullptr,
                            .parts = nullptr,
                            .splits = 1,
                            .slots = 0};
    const Tensor delta = attention_delta(dy, y, in.problem);
    in.delta = pointer<float>(delta);
    return q.size(2) <= 64 ? backward<T, 64>(in, dk, dv, q.device()) : backward<T, 128>(in, dk, dv, q.device());
  };
  return q.dtype() == DType::bf16 ? run(__nv_bfloat16{}) : run(__half{});
}

}  // namespace wick::cuda
