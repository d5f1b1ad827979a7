#pragma once

// What the attention kernels for Hopper share. A block takes tiles of its own side one after another, heavy ones first:
// two groups of four warps have 64 rows of a tile each and walk over the rows of the other side, which a thread of a
// third group fetches, by the copy engine, along with the next tile.

#include "backend/cuda/warp_group_wide.cuh"
#include "ops/attention/attention_cuda.cuh"

namespace wick::cuda::hopper {

#ifdef WICK_SM_90A
inline constexpr bool kCompiled = true;
#else
inline constexpr bool kCompiled = false;
#endif

inline constexpr int kGroups = 2;
inline constexpr int kRows = 64 * kGroups;  // of the own side in a tile
inline constexpr int kThreads = (kGroups + 1) * 128;
inline constexpr int kRegistersOfThree = 3 * 168;  // of a thread of each group, as the kernel begins
inline constexpr int kBox = 64 * 128;              // bytes of 64 rows of 64 columns
inline constexpr int kSlots = 2;                   // own tiles: one is worked on, the next is fetched
inline constexpr int kSharedLimit = 227 * 1024;

// Matrices of one side, in boxes of 64 tokens x 64 columns, and how many columns it is from one head to the next.
struct Matrices {
  CUtensorMap map[2];
  int head[2];
};

// What a block works on: a tile of the own side with a head, and the rows and heads of the other side that it meets.
struct Item {
  Sequence sequence;
  int first, count;  // rows of the sequence; count < 0: there are no more items
  int head, part;
  int head_begin;           // of the other side
  int begin, tiles, steps;  // steps go over `tiles` tiles of rows from `begin` on, for one head after the other
};

// How `slots` tiles of the own side, each with every head of it, or with every part of the heads that read it, are
// items.
struct Items {
  int slots, splits, count;
};

template <int kHeadDim, Side kOwnSide, int kOwnMatrices, int kPartnerRows, int kRingStages, bool kWithTerms>
struct Shape {
  static constexpr int kDim = kHeadDim;
  static constexpr Side kSide = kOwnSide;
  static constexpr bool kKeysOwn = kSide == Side::keys;
  static constexpr int kMatrices = kOwnMatrices;
  static constexpr int kPartners = kPartnerRows;  // rows of the other side in a step
  static constexpr int kStages = kRingStages;
  static constexpr int kBoxes = kDim / 64;
  static constexpr int kGroupRows = kBoxes * kBox;            // bytes of a group's rows of an own matrix
  static constexpr int kMatrix = kGroups * kGroupRows;        // and of all of them
  static constexpr int kPiece = kPartners / 64 * kGroupRows;  // of one of the two matrices of a step
  static constexpr int kOwn = kMatrices * kMatrix;
  static constexpr int kStage = 2 * kPiece;
  static constexpr int kTerms = kWithTerms ? kPartners * static_cast<int>(sizeof(float2)) : 0;  // bytes, of a step
  static constexpr int kBeside = kSlots * static_cast<int>(sizeof(Item)) + kStages * kTerms +
                                 2 * (kSlots + kStages) * static_cast<int>(sizeof(Arrival));
  static constexpr int kShared = 1024 + kSlots * kOwn + kStages * kStage + kBeside;
  static_assert(kShared <= kSharedLimit);
};

// The next item that nobody has taken, and the blocks that found none.
[[maybe_unused]] static __device__ unsigned next_item;
[[maybe_unused]] static __device__ unsigned finished_blocks;

// Where things lie in shared memory.
template <class S>
struct Places {
  unsigned char* own;
  unsigned char* ring;
  float2* terms;
  Arrival *own_full, *own_empty, *full, *empty;
  Item* items;

  __device__ explicit Places(unsigned char* memory) {
    own = memory + ((1024 - (shared_address(memory) & 1023)) & 1023);
    ring = own + kSlots * S::kOwn;
    terms = reinterpret_cast<float2*>(ring + S::kStages * S::kStage);
    own_full = reinterpret_cast<Arrival*>(ring + S::kStages * (S::kStage + S::kTerms));
    own_empty = own_full + kSlots;
    full = own_empty + kSlots;
    empty = full + S::kStages;
    items = reinterpret_cast<Item*>(empty + S::kStages);
  }
  // By all threads; nobody uses anything before.
  __device__ void set_up(const Matrices& own_side, const Matrices& other_side) const {
    if (threadIdx.x == 0) {
      for (int i = 0; i < kSlots; ++i) {
        arrival_init(own_full + i);
        arrival_init(own_empty + i, kGroups * 128);  // all threads that read the item
      }
      for (int i = 0; i < S::kStages; ++i) {
        arrival_init(full + i);
        arrival_init(empty + i, kGroups * 4);  // the warps that multiply
      }
      for (int i = 0; i < 2; ++i) {
        if (i < S::kMatrices) prefetch(own_side.map[i]);
        prefetch(other_side.map[i]);
      }
    }
    show_to_products();
    __syncthreads();
  }
};

// A place in the ring, and the parity of its round.
template <class S>
struct Turn {
  unsigned stage = 0;
  unsigned round = 0;

  __device__ void advance() {
    if (++stage < S::kStages) return;
    stage = 0;
    round ^= 1U;
  }
  __device__ unsigned before() const { return stage == 0 ? S::kStages - 1 : stage - 1; }
};

template <Side kSide>
__device__ inline Item find_item(const AttentionProblem& p, const Items& all, int number) {
  constexpr bool kKeysOwn = kSide == Side::keys;
  Item item = {};
  // Heaviest tiles first: the first keys are seen by most queries, the last queries see most keys.
  item.part = kKeysOwn ? number % all.splits : 0;
  item.head = kKeysOwn ? number / all.splits % p.kv_heads : number % p.heads;
  const int slot = kKeysOwn ? number / (all.splits * p.kv_heads) : all.slots - 1 - number / p.heads;
  const AttentionTile tile = find_tile(p, kSide, kRows, slot);
  item.sequence = tile.sequence;
  item.first = tile.first;
  item.count = tile.count;
  item.head_begin = kKeysOwn ? item.head * p.group() + p.group() * item.part / all.splits : item.head / p.group();
  item.begin = Meeting(p, tile.sequence, kSide, tile.first, tile.count).begin();
  return item;
}
// Its steps over tiles of `partners` rows.
template <Side kSide>
__device__ inline void count_steps(const AttentionProblem& p, const Items& all, int partners, Item& item) {
  const int size = Meeting(p, item.sequence, kSide, item.first, item.count).size();
  item.tiles = (size + partners - 1) / partners;
  const int head_end =
      kSide == Side::keys ? item.head * p.group() + p.group() * (item.part + 1) / all.splits : item.head_begin + 1;
  item.steps = item.tiles * (head_end - item.head_begin);
}

// By the one thread that fetches, until there are no more items. `terms`: boxes of attention_terms(); null where steps
// have none. The copy engine takes boxes that begin on 16 bytes alone.
template <class S>
__device__ inline void fetch_items(const AttentionProblem& p, const Items& all, const Matrices& own_side,
                                   const Matrices& other_side, const CUtensorMap* terms, const Places<S>& at) {
  Turn<S> place;
  for (unsigned turn = 0;; ++turn) {
    const unsigned slot = turn % kSlots;
    arrival_wait(at.own_empty + slot, (turn / kSlots + 1) & 1U);  // at once in the first round
    Item item = {};
    do {
      const auto number = static_cast<int>(atomicAdd(&next_item, 1U));
      if (number < all.count) {
        item = find_item<S::kSide>(p, all, number);
      } else {
        item.count = -1;
      }
    } while (item.count == 0);
    if (item.count > 0) count_steps<S::kSide>(p, all, S::kPartners, item);
    at.items[slot] = item;
    if (item.count < 0 || item.steps == 0) {
      arrive(at.own_full + slot);
      if (item.count < 0) break;
      continue;
    }
    arrival_expect(at.own_full + slot, S::kOwn);
    const int row = (S::kKeysOwn ? item.sequence.first_key : item.sequence.first_query) + item.first;
    const std::uint32_t own = shared_address(at.own) + slot * S::kOwn;
#pragma unroll
    for (int matrix = 0; matrix < S::kMatrices; ++matrix) {
#pragma unroll
      for (int i = 0; i < kGroups * S::kBoxes; ++i) {  // a group's rows one behind the other
        load_box(own + matrix * S::kMatrix + i * kBox, own_side.map[matrix],
                 item.head * own_side.head[matrix] + i % S::kBoxes * 64, row + i / S::kBoxes * 64, at.own_full + slot);
      }
    }
    const int first = (S::kKeysOwn ? item.sequence.first_query : item.sequence.first_key) + item.begin;
    for (int step = 0; step < item.steps; ++step) {
      const int head = item.head_begin + step / item.tiles;
      const int partner = first + step % item.tiles * S::kPartners;
      arrival_wait(at.empty + place.stage, place.round ^ 1U);  // at once in the first round
      arrival_expect(at.full + place.stage, S::kStage + S::kTerms);
      if constexpr (S::kTerms > 0) {
        load_box(shared_address(at.terms + place.stage * S::kPartners), *terms, 2 * (partner - partner % 2),
                 2 * head + partner % 2, at.full + place.stage);
      }
      const std::uint32_t to = shared_address(at.ring) + place.stage * S::kStage;
#pragma unroll
      for (int matrix = 0; matrix < 2; ++matrix) {
#pragma unroll
        for (int box = 0; box < S::kBoxes; ++box) {
#pragma unroll
          for (int i = 0; i < S::kPartners / 64; ++i) {  // rows of 64 columns one behind the other
            load_box(to + matrix * S::kPiece + (box * (S::kPartners / 64) + i) * kBox, other_side.map[matrix],
                     head * other_side.head[matrix] + box * 64, partner + 64 * i, at.full + place.stage);
          }
        }
      }
      place.advance();
    }
  }
  if (atomicAdd(&finished_blocks, 1U) + 1 == gridDim.x) {  // the next launch begins anew
    next_item = 0;
    finished_blocks = 0;
  }
}

// Rows of kMatrices pieces from `count` on become zeros: they are none of the sequence's, and may be nothing at all. By
// all threads of both groups.
template <class S, int kMatrices>
__device__ inline void clear_rows(unsigned char* pieces, int count) {
  constexpr int kChunks = 8;  // of 16 bytes in a row of 64 columns
  for (int i = static_cast<int>(threadIdx.x) + count * kChunks; i < S::kPartners * kChunks; i += kGroups * 128) {
#pragma unroll
    for (int box = 0; box < kMatrices * S::kBoxes; ++box) {
      *reinterpret_cast<uint4*>(pieces + box * (S::kPartners * 128) + i * 16) = {0, 0, 0, 0};
    }
  }
  show_to_products();
  barrier_of_first<kGroups * 128>();
}

// c [64, kColumns] = a bᵀ over the head dimension; `a` is the group's rows, `b` rows of a piece.
template <class T, class S, int kColumns>
__device__ inline void multiply_scores(float (&c)[kColumns / 2], std::uint32_t a, std::uint32_t b) {
#pragma unroll
  for (int k = 0; k < S::kDim / 16; ++k) {
    multiply_add_wide<T, kColumns, Right::along_k>(c, tile_descriptor(a + k / 4 * kBox) + 2 * (k % 4),
                                                   tile_descriptor(b + k / 4 * (S::kPartners * 128)) + 2 * (k % 4),
                                                   k > 0);
  }
  close_products();
}
// sums [64, kDim] += held b, over kDepth rows of a piece from `b` on.
template <class T, class S, int kDepth>
__device__ inline void add_product(float (&sums)[S::kDim / 2], const std::uint32_t (&held)[kDepth / 16][4],
                                   std::uint32_t b) {
  begin_products();
#pragma unroll
  for (int k = 0; k < kDepth / 16; ++k) {
    multiply_add_held<T, S::kDim, Right::along_columns>(sums, held[k], wide_descriptor<S::kPartners>(b) + 128 * k);
  }
  close_products();
}

// What a thread has of the scores of its warp's rows from `row` of the sequence on and of kColumns partners from `at`
// on: `otherwise` where they do not meet.
template <Side kSide, int kColumns>
__device__ inline void mask(float (&w)[kColumns / 2], const AttentionProblem& p, const Sequence& sequence, int row,
                            int at, float otherwise) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const Range range = partners(p, sequence, kSide, row + lane / 4 + 8 * h);
#pragma unroll
    for (int n = 0; n < kColumns / 8; ++n) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int partner = at + 8 * n + 2 * (lane % 4) + e;
        if (partner < range.begin || partner >= range.end) w[4 * n + 2 * h + e] = otherwise;
      }
    }
  }
}

// Two rows' worth of a thread's sums, of row `h`, times `scale` to where a row of the result begins.
template <class T, int kDim>
__device__ inline void store_row(T* to, const float (&sums)[kDim / 2], int h, float scale) {
  const int pair = 2 * (static_cast<int>(threadIdx.x) % 4);
#pragma unroll
  for (int n = 0; n < kDim / 8; ++n) {
    *reinterpret_cast<unsigned*>(to + 8 * n + pair) =
        pack_pair<T>(sums[4 * n + 2 * h] * scale, sums[4 * n + 2 * h + 1] * scale);
  }
}

// Why the kernels for Hopper take none of these on the current device.
inline Declined declined(DType dtype, std::int64_t head_dim) {
  if (!kCompiled || info().major != 9) return "no code for sm_90a, or not such a device";
  if (dtype != DType::bf16 && dtype != DType::f16) return "neither bf16 nor f16";
  return head_dim != 64 && head_dim != 128 ? "a head dimension that is neither 64 nor 128" : nullptr;
}
// Or not these: `tensors` are all that they read and write by rows, the first `boxed` of them by boxes.
inline Declined declined(const Tensor& q, const Tensor& k, const AttentionLayout& layout,
                         std::initializer_list<const Tensor*> tensors, std::size_t boxed) {
  if (const Declined reason = declined(q.dtype(), q.size(2))) return reason;
  if (layout.bias.defined()) return "a bias by distance";
  if (q.numel() == 0 || k.numel() == 0) return "no queries or no keys";
  if (!vectors_in(tensors)) return "rows that are not aligned to 16 bytes";
  for (const Tensor* t : tensors) {
    if (boxed-- == 0) break;
    if (t->stride(0) < (t->size(1) - 1) * t->stride(1) + t->size(2)) return "tokens that are not rows of heads";
  }
  return nullptr;
}

// All heads of a token side by side, with what lies between them.
inline CUtensorMap boxes_of_heads(const Tensor& t) {
  const std::int64_t columns = (t.size(1) - 1) * t.stride(1) + t.size(2);
  return boxes_of(t.as_strided({t.size(0), columns}, {t.stride(0), 1}), 64, 64);
}
inline Matrices matrices_of(const Tensor& first, const Tensor& second) {
  const auto head = [](const Tensor& t) { return static_cast<int>(t.size(1) > 1 ? t.stride(1) : 0); };
  return {{boxes_of_heads(first), boxes_of_heads(second)}, {head(first), head(second)}};
}

}  // namespace wick::cuda::hopper
