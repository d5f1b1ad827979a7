// The gradient of attention in bf16 and f16 on Hopper: what attention_backward.cu computes, in the same two passes, by
// products of groups of four warps. Scores and their gradients are the left side of the last products as they stand in
// registers. All sums are in one order: the same bytes each time.

#include <utility>

#include "ops/attention/attention_hopper.cuh"

namespace wick::cuda {
namespace {

using namespace hopper;

template <class T>
struct Arguments {
  AttentionProblem problem;
  Items items;
  Matrices own, other;  // keys: k, v and q, dy; queries: the other way round
  Heads<T> dq, dk, dv;  // null data: not wanted
  const float* lse;
  std::int64_t lse_row;
  const float* delta;  // [heads, tokens]
  float* parts;        // see attention_join(): with more splits than one
};

// Two sums of 128 columns leave few registers.
template <int kDim, Side kSide>
constexpr bool kTight = kSide == Side::keys&& kDim > 64;
template <int kDim, Side kSide>
struct BackwardShape : Shape<kDim, kSide, 2, 64, kDim == 64 ? 6 : 3, kSide == Side::keys ? 2 * 64 : 0> {
  static constexpr int kRegisters = kTight<kDim, kSide> ? 240 : 232;
  static constexpr int kFetchRegisters = kTight<kDim, kSide> ? 24 : 40;
  // Of the partners, whose gradients of scores are in registers at once.
  static constexpr int kAtOnce = kTight<kDim, kSide> ? 32 : 64;
  static_assert(kGroups * kRegisters + kFetchRegisters <= kRegistersOfThree && 64 % kAtOnce == 0);
};

// lse, negative and in powers of two, and delta of the queries of a step: -inf and 0 where there is none.
[[maybe_unused]] __device__ inline float negative_lse(float lse, bool there) {
  return there && lse > -INFINITY ? -lse * std::numbers::log2e_v<float> : -INFINITY;
}
template <class T>
struct QueryRows {
  const Arguments<T>& in;
  int first, queries, begin;
  float next[4], now[4];

  __device__ QueryRows(const Arguments<T>& arguments, const Item& item)
      : in(arguments), first(item.sequence.first_query), queries(item.sequence.queries), begin(item.begin) {}
  __device__ void ask(int head, int partner) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int row = begin + partner + static_cast<int>(threadIdx.x) % 32 + 32 * i;
      const bool there = row < queries;
      const std::int64_t token = first + (there ? row : 0);
      next[2 * i] = negative_lse(in.lse[head * in.lse_row + token], there);
      next[2 * i + 1] = there ? in.delta[static_cast<std::int64_t>(head) * in.problem.tokens + token] : 0.0F;
    }
  }
  __device__ void keep() {
#pragma unroll
    for (int i = 0; i < 4; ++i) now[i] = next[i];
  }
  __device__ void put(float* to) const {
    const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      to[lane + 32 * i] = now[2 * i];
      to[64 + lane + 32 * i] = now[2 * i + 1];
    }
  }
};

template <class T, int kDim, Side kSide>
__global__ void __launch_bounds__(kThreads, 1) hopper_kernel(const __grid_constant__ Arguments<T> in) {
#ifdef WICK_WARP_GROUPS
  using S = BackwardShape<kDim, kSide>;
  constexpr bool kKeysOwn = S::kKeysOwn;
  constexpr int kPartners = S::kPartners;
  extern __shared__ __align__(1024) unsigned char memory[];
  const Places<S> places(memory);
  places.set_up(in.own, in.other);
  const AttentionProblem& p = in.problem;
  const int thread = static_cast<int>(threadIdx.x);
  const int group = thread / 128;
  if (group == kGroups) {
    give_registers<S::kFetchRegisters>();
    if (thread % 128 >= 32) return;
    fetch_items(p, in.items, in.own, in.other, places, [&](const Item& item) {
      if constexpr (kKeysOwn) {
        return QueryRows<T>(in, item);
      } else {
        return NoRows();
      }
    });
    return;
  }

  take_registers<S::kRegisters>();
  const int lane = thread % 32;
  const float scale_log2 = p.scale * std::numbers::log2e_v<float>;
  const int group_row = 64 * group;
  const int warp_row = group_row + thread % 128 / 32 * 16;
  const int pair = 2 * (lane % 4);
  Turn<S> place;
  const auto release = [&](unsigned stage) {
    if (lane == 0) arrive(places.empty + stage);
  };
  for (unsigned turn = 0;; ++turn) {
    const unsigned slot = turn % kSlots;
    arrival_wait(places.own_full + slot, turn / kSlots & 1U);
    const Item& item = places.items[slot];  // what is seldom needed is read where it is
    if (item.count < 0) return;
    const int first_own = (kKeysOwn ? item.sequence.first_key : item.sequence.first_query) + item.first;
    const Meeting group_meets(p, item.sequence, kSide, item.first + group_row, ::min(item.count - group_row, 64));
    const Meeting warp_meets(p, item.sequence, kSide, item.first + warp_row, ::min(item.count - warp_row, 16));
    const std::uint32_t a1 = shared_address(places.own) + slot * S::kOwn + group * S::kGroupRows;
    const std::uint32_t a2 = a1 + S::kMatrix;
    float lse[2];  // of the own rows
    float delta[2];
    if constexpr (!kKeysOwn) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int row = warp_row + lane / 4 + 8 * h;
        const std::int64_t token = first_own + (row < item.count ? row : 0);
        lse[h] = negative_lse(in.lse[item.head * in.lse_row + token], row < item.count);
        delta[h] = in.delta[static_cast<std::int64_t>(item.head) * p.tokens + token];
      }
    }
    float sum1[kDim / 2];                 // dk or dq
    float sum2[kKeysOwn ? kDim / 2 : 1];  // dv
#pragma unroll
    for (float& sum : sum1) sum = 0.0F;
#pragma unroll
    for (float& sum : sum2) sum = 0.0F;
    settle(sum1);
    settle(sum2);
    bool pending = false;  // products of the step before
    int at = item.begin - kPartners;
    for (int left = item.steps; left > 0; --left, place.advance()) {
      at += kPartners;
      if (at >= item.begin + item.tiles * kPartners) at = item.begin;  // the next head
      arrival_wait(places.full + place.stage, place.round);
      unsigned char* const pieces = places.ring + place.stage * S::kStage;
      const int partner_count = (kKeysOwn ? item.sequence.queries : item.sequence.keys) - at;
      if (partner_count < kPartners) clear_rows<S, 2>(pieces, partner_count);
      if (group_meets.never(at, kPartners)) {
        if (pending) {
          wait_products<0>();
          release(place.before());
          pending = false;
        }
        release(place.stage);
        continue;
      }
      const std::uint32_t b1 = shared_address(pieces);
      const std::uint32_t b2 = b1 + S::kPiece;
      constexpr int kAtOnce = S::kAtOnce;
      float w[kPartners / 2];
      float d[kPartners / kAtOnce][kAtOnce / 2];
      settle(w);
      settle(d[0]);
      begin_products();
      multiply_scores<T, S, kPartners>(w, a1, b1);
      multiply_scores<T, S, kAtOnce>(d[0], a2, b2);
      wait_products<1>();
      settle(w);
      if (pending) release(place.before());
      pending = true;
      const float* const of_columns = places.rows + place.stage * S::kRowFloats;
#pragma unroll
      for (int n = 0; n < kPartners / 8; ++n) {
        float of_column[2] = {};
        if constexpr (kKeysOwn) {
          const float2 both = *reinterpret_cast<const float2*>(of_columns + 8 * n + pair);
          of_column[0] = both.x;
          of_column[1] = both.y;
        }
#pragma unroll
        for (int h = 0; h < 2; ++h) {
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            float& weight = w[4 * n + 2 * h + e];
            weight = fast_exp2(fmaf(weight, scale_log2, kKeysOwn ? of_column[e] : lse[h]));
          }
        }
      }
      if (!warp_meets.always(at, kPartners)) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const Range range = partners(p, item.sequence, kSide, item.first + warp_row + lane / 4 + 8 * h);
#pragma unroll
          for (int n = 0; n < kPartners / 8; ++n) {
#pragma unroll
            for (int e = 0; e < 2; ++e) {
              const int partner = at + 8 * n + pair + e;
              if (partner < range.begin || partner >= range.end) w[4 * n + 2 * h + e] = 0.0F;
            }
          }
        }
      }
      if constexpr (kKeysOwn) {
        std::uint32_t held[kPartners / 16][4];
#pragma unroll
        for (int k = 0; k < kPartners / 16; ++k) fragments_of<T>(w + 8 * k, held[k]);
        add_product<T, S, kPartners>(sum2, held, b2);
      }
#pragma unroll
      for (int i = 0; i < kPartners / kAtOnce; ++i) {
        // But for what was asked for after it: dv's products, or those of the columns before.
        if constexpr (kKeysOwn) {
          wait_products<1>();
        } else {
          wait_products<0>();
        }
        settle(d[i]);
#pragma unroll
        for (int n = 0; n < kAtOnce / 8; ++n) {
          float of_column[2] = {};
          if constexpr (kKeysOwn) {
            const float2 both = *reinterpret_cast<const float2*>(of_columns + kPartners + i * kAtOnce + 8 * n + pair);
            of_column[0] = both.x;
            of_column[1] = both.y;
          }
#pragma unroll
          for (int h = 0; h < 2; ++h) {
#pragma unroll
            for (int e = 0; e < 2; ++e) {
              float& gradient = d[i][4 * n + 2 * h + e];
              gradient = w[i * kAtOnce / 2 + 4 * n + 2 * h + e] * (gradient - (kKeysOwn ? of_column[e] : delta[h]));
            }
          }
        }
        std::uint32_t held[kAtOnce / 16][4];
#pragma unroll
        for (int k = 0; k < kAtOnce / 16; ++k) fragments_of<T>(d[i] + 8 * k, held[k]);
        if (i + 1 < kPartners / kAtOnce) {
          settle(d[i + 1]);
          begin_products();
          multiply_scores<T, S, kAtOnce>(d[i + 1], a2, b2 + (i + 1) * kAtOnce * 128);
        }
        add_product<T, S, kAtOnce>(sum1, held, b1 + i * kAtOnce * 128);
      }
    }
    wait_products<0>();
    if (pending) release(place.before());
    const int count = item.count;
    const int head = item.head;
    const int part = item.part;
    __syncwarp();
    if (lane == 0) arrive(places.own_empty + slot);
    settle(sum1);
    settle(sum2);

#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int row = warp_row + lane / 4 + 8 * h;
      if (row >= count) continue;
      const std::int64_t token = first_own + row;
      if constexpr (kKeysOwn) {
        if (in.items.splits > 1) {
          const std::int64_t floats = static_cast<std::int64_t>(p.kv_heads) * kDim;
          float* const to =
              in.parts + (static_cast<std::int64_t>(part) * p.key_tokens + token) * floats + head * kDim + pair;
          float* const to_v = to + in.items.splits * p.key_tokens * floats;
#pragma unroll
          for (int n = 0; n < kDim / 8; ++n) {
            const int i = 4 * n + 2 * h;
            *reinterpret_cast<float2*>(to + 8 * n) = {sum1[i] * p.scale, sum1[i + 1] * p.scale};
            *reinterpret_cast<float2*>(to_v + 8 * n) = {sum2[i], sum2[i + 1]};
          }
          continue;
        }
        if (in.dv.data != nullptr) store_row<T, kDim>(in.dv.at(token, head), sum2, h, 1.0F);
      }
      const Heads<T>& to = kKeysOwn ? in.dk : in.dq;
      if (to.data != nullptr) store_row<T, kDim>(to.at(token, head), sum1, h, p.scale);
    }
  }
#endif
}

template <class T, int kDim, Side kSide>
void run(const Arguments<T>& in, const Work& work) {
  launch(work, hopper_kernel<T, kDim, kSide>,
         {.grid = dim3(static_cast<unsigned>(::min(in.items.count, info().multiprocessors))),
          .block = dim3(kThreads),
          .shared = static_cast<std::size_t>(BackwardShape<kDim, kSide>::kShared)},
         in);
}

template <class T, int kDim>
Declined backward(Arguments<T>& in, const Tensor& dk, const Tensor& dv) {
  const AttentionProblem& p = in.problem;
  const std::int64_t key_slots = tile_slots(p, Side::keys, kRows);
  const std::int64_t query_slots = tile_slots(p, Side::queries, kRows);
  const int splits = attention_splits(p.key_tokens, p.kv_heads, p.group(), kRows);
  if (key_slots * p.kv_heads * splits > INT_MAX / 2 || query_slots * p.heads > INT_MAX / 2) return "too many tiles";
  const double row_bytes = static_cast<double>(kDim) * sizeof(T);
  const double query_bytes = row_bytes * p.heads * p.tokens;
  const double key_bytes = row_bytes * p.kv_heads * p.key_tokens;
  if (dk.defined() || dv.defined()) {
    in.items = {static_cast<int>(key_slots), splits, static_cast<int>(key_slots) * p.kv_heads * splits};
    Tensor parts;
    if (splits > 1) {
      const Device device = dk.defined() ? dk.device() : dv.device();
      parts = Tensor::empty({2, splits, p.key_tokens, p.kv_heads, p.head_dim}, DType::f32, device);
      in.parts = pointer<float>(parts);
    }
    run<T, kDim, Side::keys>(in, {"attention backward dk dv", 2 * query_bytes + 4 * key_bytes, attention_flops(p, 4)});
    if (splits > 1) attention_join(parts, p, dk, dv);
  }
  if (in.dq.data != nullptr) {
    in.items = {static_cast<int>(query_slots), 1, static_cast<int>(query_slots) * p.heads};
    std::swap(in.own, in.other);
    run<T, kDim, Side::queries>(in, {"attention backward dq", 3 * query_bytes + 2 * key_bytes, attention_flops(p, 3)});
  }
  return nullptr;
}

}  // namespace

std::optional<std::int64_t> attention_parts_hopper(const AttentionSizes& s) {
  if (devices().empty() || declined(s.dtype, s.head_dim) != nullptr) return std::nullopt;
  const int splits = attention_splits(s.tokens, s.kv_heads, s.heads / s.kv_heads, kRows);
  return splits == 1 ? 0 : 2 * splits * s.tokens * s.kv_heads * s.head_dim * static_cast<std::int64_t>(sizeof(float));
}

Declined attention_backward_hopper(const Tensor& dy, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& y,
                                   const Tensor& lse, const AttentionLayout& layout, const Tensor& dq, const Tensor& dk,
                                   const Tensor& dv) {
  const std::initializer_list<const Tensor*> rows = {&q, &k, &v, &dy, &dq, &dk, &dv};
  if (const Declined reason = declined(q, k, layout, rows, 4)) return reason;
  const auto run_as = [&]<class T>(T) {
    Arguments<T> in{.problem = attention_problem(q, k, layout, rows),
                    .items = {},
                    .own = matrices_of(k, v),
                    .other = matrices_of(q, dy),
                    .dq = by_heads<T>(dq),
                    .dk = by_heads<T>(dk),
                    .dv = by_heads<T>(dv),
                    .lse = pointer<float>(lse),
                    .lse_row = lse.stride(0),
                    .delta = nullptr,
                    .parts = nullptr};
    const Tensor delta = attention_delta(dy, y, in.problem);
    in.delta = pointer<float>(delta);
    return q.size(2) == 64 ? backward<T, 64>(in, dk, dv) : backward<T, 128>(in, dk, dv);
  };
  return q.dtype() == DType::bf16 ? run_as(__nv_bfloat16{}) : run_as(__half{});
}

}  // namespace wick::cuda
