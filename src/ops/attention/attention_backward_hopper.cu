// The gradient of attention in bf16 and f16 on Hopper: what attention_backward.cu computes, in the same two passes and
// the same order of sums, by products of groups of four warps. A block takes tiles of its own side one after another,
// heavy ones first; two groups have 64 rows of a tile each, a warp of a third one fetches. Scores and their gradients
// are the left side of the last products as they stand in registers.

#include "backend/cuda/warp_group_wide.cuh"
#include "ops/attention/attention_cuda.cuh"

namespace wick::cuda {
namespace {

#ifdef WICK_SM_90A
constexpr bool kCompiled = true;
#else
constexpr bool kCompiled = false;
#endif

constexpr int kGroups = 2;
constexpr int kRows = 64 * kGroups;  // of the own side in a tile
constexpr int kPartners = 64;        // rows of the other side in a step
constexpr int kThreads = (kGroups + 1) * 128;
constexpr int kBox = 64 * 128;  // bytes of 64 rows of 64 columns
constexpr int kSlots = 2;       // own tiles: one is worked on, the next is fetched
constexpr int kSharedLimit = 227 * 1024;

template <class T>
struct Arguments {
  AttentionProblem problem;
  CUtensorMap q, k, v, dy;              // boxes of 64 tokens x 64 columns
  int q_head, k_head, v_head, dy_head;  // columns from one head to the next
  Heads<T> dq, dk, dv;                  // null data: not wanted
  const float* lse;
  std::int64_t lse_row;
  const float* delta;  // [heads, tokens]
  float* parts;        // see attention_join()
  int splits;
  int slots, items;
};

// What a block works on: a tile of the own side with a head, and the rows and heads of the other side that it meets.
struct Item {
  Sequence sequence;
  int first, count;  // rows of the sequence; count < 0: there are no more items
  int head, part;
  int head_begin;           // of the other side
  int begin, tiles, steps;  // steps go over `tiles` tiles of rows from `begin` on, for one head after the other
};

template <int kHeadDim, Side kSide>
struct HopperShape {
  static constexpr int kDim = kHeadDim;
  static constexpr bool kKeysOwn = kSide == Side::keys;
  static constexpr int kBoxes = kDim / 64;
  static constexpr int kMatrix = kGroups * kBoxes * kBox;  // bytes of one of the two own matrices
  static constexpr int kOwn = 2 * kMatrix;
  static constexpr int kPiece = kBoxes * kBox;  // and of the others
  static constexpr int kStage = 2 * kPiece;
  static constexpr int kStages = kDim == 64 ? 6 : 3;
  static constexpr bool kTight = kKeysOwn && kDim > 64;  // two sums of 128 columns
  static constexpr int kRegisters = kTight ? 240 : 232;
  static constexpr int kFetchRegisters = kTight ? 24 : 40;
  // Of the partners, whose gradients of scores are in registers at once: beside two sums of 128 columns half of them.
  static constexpr int kAtOnce = kTight ? kPartners / 2 : kPartners;
  static constexpr int kPartnerRows = kKeysOwn ? 2 * kPartners : 0;  // floats of a stage: lse and delta
  static constexpr int kBeside = kStages * kPartnerRows * 4 + kSlots * static_cast<int>(sizeof(Item)) +
                                 (2 * kSlots + 2 * kStages) * static_cast<int>(sizeof(Arrival));
  static constexpr int kShared = 1024 + kSlots * kOwn + kStages * kStage + kBeside;
  static_assert(kShared <= kSharedLimit);
};

// The next item that nobody has taken, and the blocks that found none.
[[maybe_unused]] __device__ unsigned next_item;
[[maybe_unused]] __device__ unsigned finished_blocks;

template <class T, Side kSide>
__device__ inline Item find_item(const Arguments<T>& in, int number) {
  constexpr bool kKeysOwn = kSide == Side::keys;
  const AttentionProblem& p = in.problem;
  Item item = {};
  // Heaviest tiles first: the first keys are seen by most queries, the last queries see most keys.
  item.part = kKeysOwn ? number % in.splits : 0;
  item.head = kKeysOwn ? number / in.splits % p.kv_heads : number % p.heads;
  const int slot = kKeysOwn ? number / (in.splits * p.kv_heads) : in.slots - 1 - number / p.heads;
  const AttentionTile tile = find_tile(p, kSide, kRows, slot);
  item.sequence = tile.sequence;
  item.first = tile.first;
  item.count = tile.count;
  const int head_end = kKeysOwn ? item.head * p.group() + p.group() * (item.part + 1) / in.splits : 0;
  item.head_begin = kKeysOwn ? item.head * p.group() + p.group() * item.part / in.splits : item.head / p.group();
  const Meeting meets(p, tile.sequence, kSide, tile.first, tile.count);
  item.begin = meets.begin();
  item.tiles = (meets.size() + kPartners - 1) / kPartners;
  item.steps = item.tiles * (kKeysOwn ? head_end - item.head_begin : 1);
  return item;
}

// c [64, kColumns] = a bᵀ over the head dimension; `a` is the group's rows, `b` rows of a piece.
template <class T, int kDim, int kColumns>
__device__ inline void multiply_scores(float (&c)[kColumns / 2], std::uint32_t a, std::uint32_t b) {
#pragma unroll
  for (int k = 0; k < kDim / 16; ++k) {
    const std::uint32_t box = k / 4 * kBox;
    multiply_add_wide<T, kColumns, Right::along_k>(c, tile_descriptor(a + box) + 2 * (k % 4),
                                                   tile_descriptor(b + box) + 2 * (k % 4), k > 0);
  }
  close_products();
}
// sums [64, kDim] += held b, over kDepth rows of a piece.
template <class T, int kDim, int kDepth>
__device__ inline void add_product(float (&sums)[kDim / 2], const std::uint32_t (&held)[kDepth / 16][4],
                                   std::uint32_t b) {
  begin_products();
#pragma unroll
  for (int k = 0; k < kDepth / 16; ++k) {
    multiply_add_held<T, kDim, Right::along_columns>(sums, held[k], wide_descriptor<kPartners>(b) + 128 * k);
  }
  close_products();
}

template <class T, int kDim, Side kSide>
__global__ void __launch_bounds__(kThreads, 1) hopper_kernel(const __grid_constant__ Arguments<T> in) {
#ifdef WICK_WARP_GROUPS
  using Shape = HopperShape<kDim, kSide>;
  constexpr bool kKeysOwn = Shape::kKeysOwn;
  extern __shared__ __align__(1024) unsigned char memory[];
  unsigned char* const own = memory + ((1024 - (shared_address(memory) & 1023)) & 1023);
  unsigned char* const ring = own + kSlots * Shape::kOwn;
  float* const partner_rows = reinterpret_cast<float*>(ring + Shape::kStages * Shape::kStage);
  Arrival* const own_full = reinterpret_cast<Arrival*>(partner_rows + Shape::kStages * Shape::kPartnerRows);
  Arrival* const own_empty = own_full + kSlots;
  Arrival* const full = own_empty + kSlots;
  Arrival* const empty = full + Shape::kStages;
  Item* const items = reinterpret_cast<Item*>(empty + Shape::kStages);
  const AttentionProblem& p = in.problem;
  const int thread = static_cast<int>(threadIdx.x);
  const int group = thread / 128;
  const int lane = thread % 32;
  if (thread == 0) {
    for (int i = 0; i < kSlots; ++i) {
      arrival_init(own_full + i);
      arrival_init(own_empty + i, kGroups * 4);  // the warps that multiply
    }
    for (int i = 0; i < Shape::kStages; ++i) {
      arrival_init(full + i);
      arrival_init(empty + i, kGroups * 4);
    }
    for (const CUtensorMap* map : {&in.q, &in.k, &in.v, &in.dy}) prefetch(*map);
  }
  show_to_products();
  __syncthreads();

  if (group == kGroups) {
    give_registers<Shape::kFetchRegisters>();
    if (thread % 128 >= 32) return;
    const CUtensorMap& own1 = kKeysOwn ? in.k : in.q;
    const CUtensorMap& own2 = kKeysOwn ? in.v : in.dy;
    const CUtensorMap& other1 = kKeysOwn ? in.q : in.k;
    const CUtensorMap& other2 = kKeysOwn ? in.dy : in.v;
    const int own1_head = kKeysOwn ? in.k_head : in.q_head;
    const int own2_head = kKeysOwn ? in.v_head : in.dy_head;
    const int other1_head = kKeysOwn ? in.q_head : in.k_head;
    const int other2_head = kKeysOwn ? in.dy_head : in.v_head;
    unsigned piece = 0;
    for (unsigned turn = 0;; ++turn) {
      const unsigned slot = turn % kSlots;
      if (lane == 0) {
        arrival_wait(own_empty + slot, (turn / kSlots + 1) & 1U);  // at once in the first round
        Item item = {};
        do {
          const auto number = static_cast<int>(atomicAdd(&next_item, 1U));
          if (number < in.items) {
            item = find_item<T, kSide>(in, number);
          } else {
            item.count = -1;
          }
        } while (item.count == 0);
        items[slot] = item;
        if (item.count < 0 || item.steps == 0) {
          arrive(own_full + slot);
        } else {
          arrival_expect(own_full + slot, Shape::kOwn);
          const int row = (kKeysOwn ? item.sequence.first_key : item.sequence.first_query) + item.first;
          const std::uint32_t to = shared_address(own) + slot * Shape::kOwn;
#pragma unroll
          for (int i = 0; i < kGroups * Shape::kBoxes; ++i) {
            const int column = i % Shape::kBoxes * 64;
            const int at = row + i / Shape::kBoxes * 64;
            load_box(to + i * kBox, own1, item.head * own1_head + column, at, own_full + slot);
            load_box(to + Shape::kMatrix + i * kBox, own2, item.head * own2_head + column, at, own_full + slot);
          }
        }
      }
      __syncwarp();
      const Item& item = items[slot];
      if (item.count < 0) break;
      const int steps = item.steps;
      const int tiles = item.tiles;
      const int begin = item.begin;
      const int head_begin = item.head_begin;
      const int first_partner = kKeysOwn ? item.sequence.first_query : item.sequence.first_key;
      const int queries = item.sequence.queries;
      __syncwarp();  // the item is read: the groups may have done with it before the last of its pieces is asked for
      // lse, negative and in powers of two, and delta of the queries of a step: -inf and 0 where there is none.
      float ahead[4] = {};
      const auto look_ahead = [&](int step) {
        const int head = head_begin + step / tiles;
        const int at = begin + step % tiles * kPartners;
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int row = at + lane + 32 * i;
          const bool there = row < queries;
          const int token = first_partner + (there ? row : 0);
          const float lse = in.lse[head * in.lse_row + token];
          const float delta = in.delta[static_cast<std::int64_t>(head) * p.tokens + token];
          ahead[2 * i] = there && lse > -INFINITY ? -lse * std::numbers::log2e_v<float> : -INFINITY;
          ahead[2 * i + 1] = there ? delta : 0.0F;
        }
      };
      if constexpr (kKeysOwn) {
        if (steps > 0) look_ahead(0);
      }
      for (int step = 0; step < steps; ++step) {
        const unsigned stage = piece % Shape::kStages;
        if constexpr (kKeysOwn) {
          const float now[4] = {ahead[0], ahead[1], ahead[2], ahead[3]};
          if (step + 1 < steps) look_ahead(step + 1);
          if (lane == 0) arrival_wait(empty + stage, (piece / Shape::kStages + 1) & 1U);
          __syncwarp();
          float* const rows = partner_rows + stage * Shape::kPartnerRows;
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            rows[lane + 32 * i] = now[2 * i];
            rows[kPartners + lane + 32 * i] = now[2 * i + 1];
          }
          __syncwarp();
        } else if (lane == 0) {
          arrival_wait(empty + stage, (piece / Shape::kStages + 1) & 1U);
        }
        if (lane == 0) {
          arrival_expect(full + stage, Shape::kStage);
          const int head = head_begin + step / tiles;
          const int row = first_partner + begin + step % tiles * kPartners;
          const std::uint32_t to = shared_address(ring) + stage * Shape::kStage;
#pragma unroll
          for (int box = 0; box < Shape::kBoxes; ++box) {
            load_box(to + box * kBox, other1, head * other1_head + box * 64, row, full + stage);
            load_box(to + Shape::kPiece + box * kBox, other2, head * other2_head + box * 64, row, full + stage);
          }
        }
        ++piece;
      }
    }
    if (lane == 0 && atomicAdd(&finished_blocks, 1U) + 1 == gridDim.x) {  // the next launch begins anew
      next_item = 0;
      finished_blocks = 0;
    }
    return;
  }

  take_registers<Shape::kRegisters>();
  const float scale_log2 = p.scale * std::numbers::log2e_v<float>;
  const int group_row = 64 * group;
  const int warp_row = group_row + thread % 128 / 32 * 16;
  const int pair = 2 * (lane % 4);
  unsigned stage = 0;  // of the ring, and the parity of its round
  unsigned round = 0;
  const auto release = [&](unsigned of) {
    if (lane == 0) arrive(empty + of);
  };
  const auto advance = [&] {
    if (++stage < Shape::kStages) return;
    stage = 0;
    round ^= 1U;
  };
  const auto before = [&] { return stage == 0 ? Shape::kStages - 1 : stage - 1; };
  for (unsigned turn = 0;; ++turn) {
    const unsigned slot = turn % kSlots;
    arrival_wait(own_full + slot, turn / kSlots & 1U);
    const Item& item = items[slot];  // registers are scarce: what is seldom needed is read where it is
    if (item.count < 0) return;
    const int first_own = (kKeysOwn ? item.sequence.first_key : item.sequence.first_query) + item.first;
    const Meeting group_meets(p, item.sequence, kSide, item.first + group_row, ::min(item.count - group_row, 64));
    const Meeting warp_meets(p, item.sequence, kSide, item.first + warp_row, ::min(item.count - warp_row, 16));
    const std::uint32_t a1 = shared_address(own) + slot * Shape::kOwn + group * Shape::kPiece;
    const std::uint32_t a2 = a1 + Shape::kMatrix;
    float lse[2];  // of the own rows, negative and in powers of two
    float delta[2];
    if constexpr (!kKeysOwn) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int row = warp_row + lane / 4 + 8 * h;
        const int token = first_own + (row < item.count ? row : 0);
        const float found = in.lse[item.head * in.lse_row + token];
        lse[h] = row < item.count && found > -INFINITY ? -found * std::numbers::log2e_v<float> : -INFINITY;
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
    bool pending = false;  // the piece before this one is still read
    int at = item.begin - kPartners;
    for (int left = item.steps; left > 0; --left) {
      at += kPartners;
      if (at >= item.begin + item.tiles * kPartners) at = item.begin;  // the next head
      arrival_wait(full + stage, round);
      if (group_meets.never(at, kPartners)) {
        if (pending) {
          wait_products<0>();
          release(before());
          pending = false;
        }
        release(stage);
        advance();
        continue;
      }
      const std::uint32_t b1 = shared_address(ring) + stage * Shape::kStage;
      const std::uint32_t b2 = b1 + Shape::kPiece;
      constexpr int kAtOnce = Shape::kAtOnce;
      float w[kPartners / 2];
      float d[kPartners / kAtOnce][kAtOnce / 2];
      settle(w);
      settle(d[0]);
      begin_products();
      multiply_scores<T, kDim, kPartners>(w, a1, b1);
      multiply_scores<T, kDim, kAtOnce>(d[0], a2, b2);
      wait_products<1>();
      settle(w);
      if (pending) release(before());
      pending = true;
      const float* const column_lse = partner_rows + stage * Shape::kPartnerRows;
#pragma unroll
      for (int n = 0; n < kPartners / 8; ++n) {
        float of_column[2] = {};
        if constexpr (kKeysOwn) {
          const float2 both = *reinterpret_cast<const float2*>(column_lse + 8 * n + pair);
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
        add_product<T, kDim, kPartners>(sum2, held, b2);
      }
      const float* const column_delta = column_lse + kPartners;
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
            const float2 both = *reinterpret_cast<const float2*>(column_delta + i * kAtOnce + 8 * n + pair);
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
          multiply_scores<T, kDim, kAtOnce>(d[i + 1], a2, b2 + (i + 1) * kAtOnce * 128);
        }
        add_product<T, kDim, kAtOnce>(sum1, held, b1 + i * kAtOnce * 128);
      }
      advance();
    }
    wait_products<0>();
    if (pending) release(before());
    const int count = item.count;
    const int head = item.head;
    const int part = item.part;
    __syncwarp();
    if (lane == 0) arrive(own_empty + slot);
    settle(sum1);
    settle(sum2);

#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int row = warp_row + lane / 4 + 8 * h;
      if (row >= count) continue;
      const std::int64_t token = first_own + row;
      if (kKeysOwn && in.splits > 1) {
        const std::int64_t row_floats = static_cast<std::int64_t>(p.kv_heads) * kDim;
        float* const to =
            in.parts + (static_cast<std::int64_t>(part) * p.key_tokens + token) * row_floats + head * kDim + pair;
#pragma unroll
        for (int n = 0; n < kDim / 8; ++n) {
          *reinterpret_cast<float2*>(to + 8 * n) = {sum1[4 * n + 2 * h] * p.scale, sum1[4 * n + 2 * h + 1] * p.scale};
          if constexpr (kKeysOwn) {
            *reinterpret_cast<float2*>(to + in.splits * p.key_tokens * row_floats + 8 * n) = {sum2[4 * n + 2 * h],
                                                                                              sum2[4 * n + 2 * h + 1]};
          }
        }
        continue;
      }
      const Heads<T>& to1 = kKeysOwn ? in.dk : in.dq;
      if (to1.data != nullptr) {
        T* const to = to1.at(token, head) + pair;
#pragma unroll
        for (int n = 0; n < kDim / 8; ++n) {
          *reinterpret_cast<unsigned*>(to + 8 * n) =
              pack_pair<T>(sum1[4 * n + 2 * h] * p.scale, sum1[4 * n + 2 * h + 1] * p.scale);
        }
      }
      if constexpr (kKeysOwn) {
        if (in.dv.data != nullptr) {
          T* const to = in.dv.at(token, head) + pair;
#pragma unroll
          for (int n = 0; n < kDim / 8; ++n) {
            *reinterpret_cast<unsigned*>(to + 8 * n) = pack_pair<T>(sum2[4 * n + 2 * h], sum2[4 * n + 2 * h + 1]);
          }
        }
      }
    }
  }
#endif
}

// All heads of a token side by side, with what lies between them.
CUtensorMap boxes_of_heads(const Tensor& t) {
  const std::int64_t columns = (t.size(1) - 1) * t.stride(1) + t.size(2);
  return boxes_of(t.as_strided({t.size(0), columns}, {t.stride(0), 1}), 64, 64);
}

template <class T, int kDim, Side kSide>
void run(Arguments<T>& in, const Work& work) {
  using Shape = HopperShape<kDim, kSide>;
  const int blocks = info().multiprocessors;
  launch(work, hopper_kernel<T, kDim, kSide>,
         {.grid = dim3(static_cast<unsigned>(in.items < blocks ? in.items : blocks)),
          .block = dim3(kThreads),
          .shared = static_cast<std::size_t>(Shape::kShared)},
         in);
}

template <class T, int kDim>
Declined backward(Arguments<T>& in, const Tensor& dk, const Tensor& dv, Device device) {
  const AttentionProblem& p = in.problem;
  const std::int64_t key_slots = tile_slots(p, Side::keys, kRows);
  const std::int64_t query_slots = tile_slots(p, Side::queries, kRows);
  in.splits = attention_splits(p, kRows);
  if (key_slots * p.kv_heads * in.splits > INT_MAX / 2 || query_slots * p.heads > INT_MAX / 2) return "too many tiles";
  const double row_bytes = static_cast<double>(kDim) * sizeof(T);
  const double query_bytes = row_bytes * p.heads * p.tokens;
  const double key_bytes = row_bytes * p.kv_heads * p.key_tokens;
  if (dk.defined() || dv.defined()) {
    in.slots = static_cast<int>(key_slots);
    in.items = static_cast<int>(key_slots) * p.kv_heads * in.splits;
    Tensor parts;
    if (in.splits > 1) {
      parts = Tensor::empty(Shape{2, in.splits, p.key_tokens, p.kv_heads, p.head_dim}, DType::f32, device);
      in.parts = pointer<float>(parts);
    }
    run<T, kDim, Side::keys>(in,
                             Work{"attention backward dk dv", 2 * query_bytes + 4 * key_bytes, attention_flops(p, 4)});
    if (in.splits > 1) attention_join(parts, p, dk, dv);
  }
  if (in.dq.data != nullptr) {
    in.slots = static_cast<int>(query_slots);
    in.items = static_cast<int>(query_slots) * p.heads;
    run<T, kDim, Side::queries>(in,
                                Work{"attention backward dq", 3 * query_bytes + 2 * key_bytes, attention_flops(p, 3)});
  }
  return nullptr;
}

}  // namespace

Declined attention_backward_hopper(const Tensor& dy, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& y,
                                   const Tensor& lse, const AttentionLayout& layout, const Tensor& dq, const Tensor& dk,
                                   const Tensor& dv) {
  if (!kCompiled || info(q.device().index).major != 9) return "no code for sm_90a, or not such a device";
  if (q.dtype() != DType::bf16 && q.dtype() != DType::f16) return "neither bf16 nor f16";
  if (q.size(2) != 64 && q.size(2) != 128) return "a head dimension that is neither 64 nor 128";
  if (layout.bias.defined()) return "a bias by distance";
  if (q.numel() == 0 || k.numel() == 0) return "no queries or no keys";
  if (!vectors_in({&q, &k, &v, &dy, &dq, &dk, &dv})) return "rows that are not aligned to 16 bytes";
  for (const Tensor* t : {&q, &k, &v, &dy}) {
    if (t->stride(0) < (t->size(1) - 1) * t->stride(1) + t->size(2)) return "tokens that are not rows of heads";
  }
  const auto head_of = [](const Tensor& t) { return static_cast<int>(t.size(1) > 1 ? t.stride(1) : 0); };
  const auto run_as = [&]<class T>(T) {
    Arguments<T> in{.problem = attention_problem(q, k, layout, {&q, &k, &v, &dy, &dq, &dk, &dv}),
                    .q = boxes_of_heads(q),
                    .k = boxes_of_heads(k),
                    .v = boxes_of_heads(v),
                    .dy = boxes_of_heads(dy),
                    .q_head = head_of(q),
                    .k_head = head_of(k),
                    .v_head = head_of(v),
                    .dy_head = head_of(dy),
                    .dq = by_heads<T>(dq),
                    .dk = by_heads<T>(dk),
                    .dv = by_heads<T>(dv),
                    .lse = pointer<float>(lse),
                    .lse_row = lse.stride(0),
                    .delta = nullptr,
                    .parts = nullptr,
                    .splits = 1,
                    .slots = 0,
                    .items = 0};
    const Tensor delta = attention_delta(dy, y, in.problem);
    in.delta = pointer<float>(delta);
    return q.size(2) == 64 ? backward<T, 64>(in, dk, dv, q.device()) : backward<T, 128>(in, dk, dv, q.device());
  };
  return q.dtype() == DType::bf16 ? run_as(__nv_bfloat16{}) : run_as(__half{});
}

}  // namespace wick::cuda
