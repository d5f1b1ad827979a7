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
  Matrices own, other;     // keys: k, v and q, dy; queries: the other way round
  Heads<T> dq, dk, dv;     // null data: not wanted
  CUtensorMap term_boxes;  // of attention_terms(), for the keys' steps
  const float2* terms;     // they themselves
  std::int64_t terms_row;  // from one of their rows to the next
  float* parts;            // see attention_join(): with more splits than one
};

// Two sums of 128 columns leave few registers.
template <int kDim, Side kSide>
constexpr bool kTight = (kSide == Side::keys) && kDim > 64;
template <int kDim, Side kSide>
struct BackwardShape : Shape<kDim, kSide, 2, 64, kDim == 64 ? 6 : 3, kSide == Side::keys> {
  static constexpr int kRegisters = kTight<kDim, kSide> ? 240 : 232;
  static constexpr int kFetchRegisters = kTight<kDim, kSide> ? 24 : 40;
  // Of the partners, whose gradients of scores are in registers at once.
  static constexpr int kAtOnce = kTight<kDim, kSide> ? 32 : 64;
  static_assert(kGroups * kRegisters + kFetchRegisters <= kRegistersOfThree && 64 % kAtOnce == 0);
};

// Of a query that is none.
[[maybe_unused]] __device__ inline float2 no_terms() { return {-INFINITY, 0.0F}; }

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
    if (thread % 128 == 0) fetch_items(p, in.items, in.own, in.other, &in.term_boxes, places);
    return;
  }

  take_registers<S::kRegisters>();
  const int lane = thread % 32;
  const float scale_log2 = p.scale * std::numbers::log2e_v<float>;
  const int group_row = 64 * group;
  const int warp_row = group_row + thread % 128 / 32 * 16;
  const int pair = 2 * (lane % 4);
  Turn<S> place;
  // One thread for its warp: the products that have been waited for took what all its threads had read and written.
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
    float2 of_rows[2];
    if constexpr (!kKeysOwn) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int row = warp_row + lane / 4 + 8 * h;
        of_rows[h] = row < item.count ? in.terms[2 * item.head * in.terms_row + first_own + row] : no_terms();
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
      float2* const terms = places.terms + place.stage * kPartners;
      if (partner_count < kPartners) {
        if (kKeysOwn && thread >= partner_count && thread < kPartners) terms[thread] = no_terms();
        clear_rows<S, 2>(pieces, partner_count);
      }
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
      // Of two columns: x and z are for the weights, y and w for their gradients.
      const auto of_columns = [&](int column) { return *reinterpret_cast<const float4*>(terms + column + pair); };
#pragma unroll
      for (int n = 0; n < kPartners / 8; ++n) {
        float4 both = {};
        if constexpr (kKeysOwn) both = of_columns(8 * n);
#pragma unroll
        for (int h = 0; h < 2; ++h) {
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            const float lse = !kKeysOwn ? of_rows[h].x : e == 0 ? both.x : both.z;
            float& weight = w[4 * n + 2 * h + e];
            weight = fast_exp2(fmaf(weight, scale_log2, lse));
          }
        }
      }
      if (!warp_meets.always(at, kPartners)) {
        mask<kSide, kPartners>(w, p, item.sequence, item.first + warp_row, at, 0.0F);
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
          float4 both = {};
          if constexpr (kKeysOwn) both = of_columns(i * kAtOnce + 8 * n);
#pragma unroll
          for (int h = 0; h < 2; ++h) {
#pragma unroll
            for (int e = 0; e < 2; ++e) {
              const float delta = !kKeysOwn ? of_rows[h].y : e == 0 ? both.y : both.w;
              float& gradient = d[i][4 * n + 2 * h + e];
              gradient = w[i * kAtOnce / 2 + 4 * n + 2 * h + e] * (gradient - delta);
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
    arrive(places.own_empty + slot);
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
Declined backward(Arguments<T>& in, const Tensor& terms, const Tensor& dk, const Tensor& dv) {
  const AttentionProblem& p = in.problem;
  const std::int64_t key_slots = tile_slots(p, Side::keys, kRows);
  const std::int64_t query_slots = tile_slots(p, Side::queries, kRows);
  const int splits = attention_splits(p.key_tokens, p.kv_heads, p.group(), kRows);
  if (key_slots * p.kv_heads * splits > INT_MAX / 2 || query_slots * p.heads > INT_MAX / 2) return "too many tiles";
  const double row_bytes = static_cast<double>(kDim) * sizeof(T);
  const double query_bytes = row_bytes * p.heads * p.tokens;
  const double key_bytes = row_bytes * p.kv_heads * p.key_tokens;
  if (dk.defined() || dv.defined()) {
    in.term_boxes = row_boxes_of(terms, 2 * BackwardShape<kDim, Side::keys>::kPartners);
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
                    .term_boxes = {},
                    .terms = nullptr,
                    .terms_row = 0,
                    .parts = nullptr};
    const Tensor terms = attention_terms(dy, y, lse, in.problem);
    in.terms = pointer<float2>(terms);
    in.terms_row = terms.stride(0) / 2;
    return q.size(2) == 64 ? backward<T, 64>(in, terms, dk, dv) : backward<T, 128>(in, terms, dk, dv);
  };
  return q.dtype() == DType::bf16 ? run_as(__nv_bfloat16{}) : run_as(__half{});
}

}  // namespace wick::cuda
