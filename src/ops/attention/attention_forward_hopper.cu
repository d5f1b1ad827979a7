// Attention of bf16 and f16 on Hopper: what attention_forward.cu computes, by products of groups of four warps
// (FlashAttention-3, Shah et al. 2024). While one group has its scores' exponentials, the other multiplies.

#include "ops/attention/attention_hopper.cuh"

namespace wick::cuda {
namespace {

using namespace hopper;

template <class T>
struct Arguments {
  AttentionProblem problem;
  Items items;
  Matrices queries, keys;  // q; k and v
  Heads<T> y;
  float* lse;  // null: not wanted
  std::int64_t lse_row;
};

template <int kDim>
struct ForwardShape : Shape<kDim, Side::queries, 1, 128, kDim == 64 ? 4 : 2, false> {
  static constexpr int kRegisters = 232;
  static constexpr int kFetchRegisters = 40;
  static_assert(kGroups * kRegisters + kFetchRegisters <= kRegistersOfThree);
};

template <class T, int kDim>
__global__ void __launch_bounds__(kThreads, 1) hopper_kernel(const __grid_constant__ Arguments<T> in) {
#ifdef WICK_WARP_GROUPS
  using S = ForwardShape<kDim>;
  constexpr int kPartners = S::kPartners;
  extern __shared__ __align__(1024) unsigned char memory[];
  const Places<S> places(memory);
  places.set_up(in.queries, in.keys);
  const AttentionProblem& p = in.problem;
  const int thread = static_cast<int>(threadIdx.x);
  const int group = thread / 128;
  if (group == kGroups) {
    give_registers<S::kFetchRegisters>();
    if (thread % 128 == 0) fetch_items(p, in.items, in.queries, in.keys, nullptr, places);
    return;
  }

  take_registers<S::kRegisters>();
  const int lane = thread % 32;
  const float scale_log2 = p.scale * std::numbers::log2e_v<float>;
  const int group_row = 64 * group;
  const int warp_row = group_row + thread % 128 / 32 * 16;
  Turn<S> place;
  const auto release = [&](unsigned stage) {
    if (lane == 0) arrive(places.empty + stage);
  };
  for (unsigned turn = 0;; ++turn) {
    const unsigned slot = turn % kSlots;
    arrival_wait(places.own_full + slot, turn / kSlots & 1U);
    const Item item = places.items[slot];
    if (item.count < 0) return;
    const Meeting group_sees(p, item.sequence, Side::queries, item.first + group_row,
                             ::min(item.count - group_row, 64));
    const Meeting warp_sees(p, item.sequence, Side::queries, item.first + warp_row, ::min(item.count - warp_row, 16));
    const std::uint32_t queries = shared_address(places.own) + slot * S::kOwn + group * S::kGroupRows;
    float sums[kDim / 2];
#pragma unroll
    for (float& sum : sums) sum = 0.0F;
    float highest[2] = {-INFINITY, -INFINITY};  // of the rows' scores so far
    float total[2] = {0.0F, 0.0F};              // of their weights, in this thread's columns
    bool pending = false;                       // products of the step before
    for (int step = 0; step < item.steps; ++step, place.advance()) {
      const int at = item.begin + step * kPartners;
      arrival_wait(places.full + place.stage, place.round);
      unsigned char* const keys = places.ring + place.stage * S::kStage;
      unsigned char* const values = keys + S::kPiece;
      if (at + kPartners > item.sequence.keys) clear_rows<S, 1>(values, item.sequence.keys - at);
      if (group_sees.never(at, kPartners)) {
        if (pending) {
          wait_products<0>();
          release(place.before());
          pending = false;
        }
        release(place.stage);
        continue;
      }
      float w[kPartners / 2];
      settle(w);
      begin_products();
      multiply_scores<T, S, kPartners>(w, queries, shared_address(keys));
      wait_products<0>();
      settle(w);
      settle(sums);
      if (pending) release(place.before());
      pending = true;
      if (!warp_sees.always(at, kPartners)) {
        mask<Side::queries, kPartners>(w, p, item.sequence, item.first + warp_row, at, -INFINITY);
      }
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        float top = highest[h];
#pragma unroll
        for (int n = 0; n < kPartners / 8; ++n) top = fmaxf(top, fmaxf(w[4 * n + 2 * h], w[4 * n + 2 * h + 1]));
        top = quad_max(top);
        const float base = top == -INFINITY ? 0.0F : top * scale_log2;
        const float keep = fast_exp2(highest[h] * scale_log2 - base);
        highest[h] = top;
        float sum = 0.0F;
#pragma unroll
        for (int n = 0; n < kPartners / 8; ++n) {
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            float& weight = w[4 * n + 2 * h + e];
            weight = fast_exp2(fmaf(weight, scale_log2, -base));
            sum += weight;
          }
        }
        total[h] = total[h] * keep + sum;
#pragma unroll
        for (int n = 0; n < kDim / 8; ++n) {
          sums[4 * n + 2 * h] *= keep;
          sums[4 * n + 2 * h + 1] *= keep;
        }
      }
      std::uint32_t held[kPartners / 16][4];
#pragma unroll
      for (int k = 0; k < kPartners / 16; ++k) fragments_of<T>(w + 8 * k, held[k]);
      settle(sums);
      add_product<T, S, kPartners>(sums, held, shared_address(values));
    }
    wait_products<0>();
    if (pending) release(place.before());
    arrive(places.own_empty + slot);
    settle(sums);

#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const float whole = quad_sum(total[h]);
      const int row = warp_row + lane / 4 + 8 * h;
      if (row >= item.count) continue;
      const int token = item.sequence.first_query + item.first + row;
      store_row<T, kDim>(in.y.at(token, item.head), sums, h, whole == 0 ? 0.0F : 1.0F / whole);
      if (in.lse != nullptr && lane % 4 == 0) {
        in.lse[item.head * in.lse_row + token] = log_sum_exp(highest[h], whole, p.scale);
      }
    }
  }
#endif
}

template <class T, int kDim>
Declined forward(Arguments<T>& in) {
  const AttentionProblem& p = in.problem;
  const std::int64_t slots = tile_slots(p, Side::queries, kRows);
  if (slots * p.heads > INT_MAX / 2) return "too many tiles";
  in.items = {static_cast<int>(slots), 1, static_cast<int>(slots) * p.heads};
  const double rows = static_cast<double>(p.heads) * p.tokens + static_cast<double>(p.kv_heads) * p.key_tokens;
  launch({"attention forward", rows * 2 * p.head_dim * sizeof(T), attention_flops(p, 2)}, hopper_kernel<T, kDim>,
         {.grid = dim3(static_cast<unsigned>(::min(in.items.count, info().multiprocessors))),
          .block = dim3(kThreads),
          .shared = static_cast<std::size_t>(ForwardShape<kDim>::kShared)},
         in);
  return nullptr;
}

}  // namespace

Declined attention_forward_hopper(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionLayout& layout,
                                  const Tensor& y, const Tensor& lse) {
  const std::initializer_list<const Tensor*> rows = {&q, &k, &v, &y};
  if (const Declined reason = declined(q, k, layout, rows, 3)) return reason;
  const auto run_as = [&]<class T>(T) {
    Arguments<T> in{.problem = attention_problem(q, k, layout, rows),
                    .items = {},
                    .queries = matrices_of(q, q),
                    .keys = matrices_of(k, v),
                    .y = by_heads<T>(y),
                    .lse = pointer<float>(lse),
                    .lse_row = lse.defined() ? lse.stride(0) : 0};
    return q.size(2) == 64 ? forward<T, 64>(in) : forward<T, 128>(in);
  };
  return q.dtype() == DType::bf16 ? run_as(__nv_bfloat16{}) : run_as(__half{});
}

}  // namespace wick::cuda
