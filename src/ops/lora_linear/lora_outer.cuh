#pragma once

// gᵀ x, the gradient of A, and s dyᵀ h, that of B, both or one of them in one launch. A cluster has some columns of x
// or of dy, each of its blocks some of the rows (OuterPlan), so the sums are complete within the cluster.

#include "ops/lora_linear/lora_outer_plan.h"
#include "ops/lora_linear/lora_project.cuh"

namespace wick::cuda::skinny {

static_assert(OuterPlan::kBox == kBox && OuterPlan::kMaxCluster == static_cast<int>(kMaxCluster));

struct Outer {
  struct Matrix {
    CUtensorMap tall;    // boxes of x or dy [rows, columns]
    CUtensorMap narrow;  // narrow boxes of g or h [rows, R]
    int columns;
    bool of_b;  // dy and h
  };
  Matrix matrices[OuterPlan::kMatrices];
  OuterPlan plan;
  const float* partial;  // project's, [ranges, n, R]; null: there are none
  int ranges, n;
  Siblings siblings;
};

template <int R>
struct OuterShape {
  // And a warp that fetches x or dy, and one that waits for g. So few have registers enough where a multiprocessor has
  // two blocks: the next launch's first boxes come while this one ends.
  static constexpr int kThreads = kMultiplying + 2 * 32;
  static constexpr int kMostBoxes = OuterPlan::kMaxBoxes * 16 / R;  // across
  static constexpr int kArrivals = 1024;                            // bytes
  static constexpr int kPitch = R + 8;  // floats: pairs of ranks of 4 columns lie in 32 banks

  /// Bytes of both rings where a multiprocessor has room for so many blocks.
  static constexpr int rings(int room) { return (OuterPlan::room_bytes(room) - 1024 - kArrivals) / 1024 * 1024; }
  static constexpr int bytes(int room) { return 1024 + rings(room) + kArrivals; }
  static_assert(kMostBoxes * kBox * kPitch * 4 <= rings(OuterPlan::kMaxRoom), "the exchange takes the rings' place");

  /// Places in each group's ring of a block that has `boxes` boxes across, and in the ring of the narrow boxes beside
  /// them; a single box's is even, so that a place there too is always the same group's.
  static constexpr int slots(int room, int boxes) {
    return (rings(room) - kNarrow<R>)*boxes / (kBoxBytes * boxes + kNarrow<R>) / kGroups;
  }
  static constexpr int narrow_slots(int slots, int boxes) {
    return boxes == 1 ? kGroups * slots : kGroups * slots / boxes + 1;
  }
  static_assert(kGroups * slots(1, kMostBoxes) <= 32 && kGroups * slots(1, 1) < 32, "a warp's threads set these up");
  static_assert(4 * 32 * sizeof(Arrival) <= kArrivals);
  static_assert(kGroups * slots(OuterPlan::kMaxRoom, kMostBoxes) >= kMostBoxes, "a row's boxes, for Turn::advance()");
};

/// A place in a ring of `slots`, and how often it has gone round.
struct Turn {
  int slots;
  int at = 0;
  unsigned round = 0;

  /// By no more than there are slots.
  __device__ void advance(int by) {
    at += by;
    if (at < slots) return;
    at -= slots;
    ++round;
  }
};

/// Where four sums go, of one column of x or dy and ranks from `rank` on; null: nobody wants them.
struct Targets {
  float* at[4] = {};
  float scale = 1;

  __device__ Targets(const Siblings& siblings, bool of_b, int column, int rank) {
    for (int i = 0; i < siblings.count; ++i) {
      const Siblings::Block& block = siblings.blocks[i];
      if (of_b && (column < block.out_begin || column >= block.out_end)) continue;
      if ((of_b ? block.db : block.da) == nullptr) continue;
      if (of_b) scale = block.scale;
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int r = rank + e - block.rank_begin;
        if (r < 0 || rank + e >= block.rank_end) continue;
        at[e] = of_b ? block.db + (column - block.out_begin) * block.db_stride + r
                     : block.da + r * block.da_stride + column;
      }
    }
  }
  __device__ bool none() const { return at[0] == nullptr && at[1] == nullptr && at[2] == nullptr && at[3] == nullptr; }
};

/// The sums that a block adds up in the end, from all blocks of its cluster, four at a time: a share of the columns.
template <int R>
struct Own {
  int begin;  // the cluster's first column, from where the others count
  int from, width, count;
  bool of_b;

  __device__ Own(const Outer::Matrix& matrix, const OuterPlan::Share& share, int rank, int blocks)
      : begin(share.box * kBox), of_b(matrix.of_b) {
    const int extent = min(share.boxes * kBox, matrix.columns - begin);
    const int each = (extent + blocks - 1) / blocks;
    from = min(rank * each, extent);
    width = min(each, extent - from);
    count = width * (R / 4);
  }
  // Side by side in memory are the ranks of a column of dy, the columns of a rank of x.
  __device__ int column(int id) const { return from + (of_b ? id / (R / 4) : id % width); }
  __device__ int rank(int id) const { return 4 * (of_b ? id % (R / 4) : id / width); }
};

template <class T, int R>
__global__ __launch_bounds__(OuterShape<R>::kThreads,
                             OuterPlan::kMaxRoom) void outer_kernel(const __grid_constant__ Outer p) {
#ifdef WICK_WARP_GROUPS
  using Shape = OuterShape<R>;
  const Place place;
  const int rank = static_cast<int>(cluster_rank());
  const int blocks = static_cast<int>(cluster_blocks());
  const OuterPlan::Share share = p.plan.share(static_cast<int>(blockIdx.x) / blocks, rank);
  const Outer::Matrix& matrix = p.matrices[share.matrix];
  const int rings = Shape::rings(p.plan.room);
  const int slots = Shape::slots(p.plan.room, share.boxes);
  const int narrow_slots = Shape::narrow_slots(slots, share.boxes);
  const bool halves = share.boxes == 1;  // the groups take turns with the rows, instead of with the columns

  unsigned char* const ring = aligned_shared();
  // Each group has a ring of its own: whoever waits for a phase must have seen the one ahead of it, which another group
  // may still wait for.
  unsigned char* const narrow_ring = ring + kGroups * slots * kBoxBytes;
  auto* const full = reinterpret_cast<Arrival*>(ring + rings);
  Arrival* const empty = full + kGroups * slots;
  Arrival* const narrow_full = empty + kGroups * slots;
  Arrival* const narrow_empty = narrow_full + narrow_slots;
  const int thread = static_cast<int>(threadIdx.x);
  if (thread < kGroups * slots) {
    arrival_init(full + thread);
    arrival_init(empty + thread, 4);  // a group's warps
  } else if (thread >= 32 && thread < 32 + narrow_slots) {
    arrival_init(narrow_full + thread - 32);
    arrival_init(narrow_empty + thread - 32, halves ? 4 : 4 * kGroups);
  } else if (thread == 64) {
    prefetch(matrix.tall);
    prefetch(matrix.narrow);
  }
  show_to_products();
  __syncthreads();

  if (place.group == kGroups) {
    const auto bring_narrow = [&](int row, Turn& turn) {
      arrival_wait(narrow_empty + turn.at, (turn.round + 1) & 1U);  // at once in the first round
      arrival_expect(narrow_full + turn.at, kNarrow<R>);
      load_narrow<R>(narrow_ring + turn.at * kNarrow<R>, matrix.narrow, (share.row_box + row) * kBox,
                     narrow_full + turn.at);
      turn.advance(1);
    };
    Turn narrow_turn = {narrow_slots};
    if (place.warp == 0 && place.lane == 0) {
      // x, dy and h are older than the kernel before this one, which has itself waited for those before it.
      Turn even = {slots};
      Turn odd = {slots};
      for (int row = 0; row < share.row_boxes; ++row) {
        if (matrix.of_b) bring_narrow(row, narrow_turn);
        for (int part = 0; part < kBox; part += p.plan.copy_rows) {
          for (int box = 0; box < share.boxes; ++box) {
            const int group = (halves ? row : box) % kGroups;
            Turn mine = group == 0 ? even : odd;
            mine.advance(box / kGroups);
            const int slot = group * slots + mine.at;
            if (part == 0) {
              arrival_wait(empty + slot, (mine.round + 1) & 1U);
              arrival_expect(full + slot, kBoxBytes);
            }
            load_box(shared_address(ring + slot * kBoxBytes + part * kBoxBytes / kBox), matrix.tall,
                     (share.box + box) * kBox, (share.row_box + row) * kBox + part, full + slot);
          }
        }
        even.advance(halves ? 1 - row % kGroups : (share.boxes + 1) / kGroups);
        odd.advance(halves ? row % kGroups : share.boxes / kGroups);
      }
    } else if (place.warp == 1) {
      wait_for_previous();
      allow_next();
      if (place.lane == 0 && !matrix.of_b) {
        for (int row = 0; row < share.row_boxes; ++row) bring_narrow(row, narrow_turn);
      }
      __syncwarp();
      // What the sums are added to; some boxes are still on their way.
      const Own<R> own(matrix, share, rank, blocks);
      for (int id = place.lane; p.siblings.add && id < own.count; id += 32) {
        const Targets targets(p.siblings, own.of_b, own.begin + own.column(id), own.rank(id));
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          if (targets.at[e] != nullptr) prefetch(targets.at[e]);
        }
      }
    }
    return;
  }

  if (p.partial != nullptr) {
    wait_for_previous();
    add_partials<R>(p.partial, p.ranges, p.n, p.siblings);
  }
  constexpr int kMine = Shape::kMostBoxes / kGroups;
  float sums[kMine][R / 2] = {};
  const int rows_a_turn = halves ? kGroups : 1;
  const int boxes_a_turn = halves ? 1 : (share.boxes + 1 - place.group) / kGroups;
  Turn turn = {slots};
  Turn narrow_turn = {narrow_slots, halves ? place.group : 0};
  for (int row = narrow_turn.at; row < share.row_boxes; row += rows_a_turn) {
    arrival_wait(narrow_full + narrow_turn.at, narrow_turn.round & 1U);
    const std::uint64_t narrow = narrow_descriptor(shared_address(narrow_ring + narrow_turn.at * kNarrow<R>));
#pragma unroll
    for (int i = 0; i < kMine; ++i) {
      const int box = kGroups * i + (halves ? 0 : place.group);
      if (box >= share.boxes) break;
      Turn mine = turn;
      mine.advance(i);
      const int slot = place.group * slots + mine.at;
      arrival_wait(full + slot, mine.round & 1U);
      const std::uint64_t tall = tile_descriptor(shared_address(ring + slot * kBoxBytes));
      settle(sums[i]);
      begin_products();
#pragma unroll
      for (int k = 0; k < kBox / 16; ++k) {
        multiply_add_narrow<T, R, Along::rows>(sums[i], tall + 128 * k, narrow + 32 * k, true);
      }
      close_products();
      wait_products<0>();
      settle(sums[i]);
      if (place.lane == 0) arrive(empty + slot);
    }
    if (place.lane == 0) arrive(narrow_empty + narrow_turn.at);
    turn.advance(boxes_a_turn);
    narrow_turn.advance(rows_a_turn);
  }

  // Each block adds up a share of the columns from all blocks of its cluster.
  barrier_of_first<kMultiplying>();
  float* const exchange = reinterpret_cast<float*>(ring);  // [boxes, or kGroups in halves, kBox, kPitch]
#pragma unroll
  for (int i = 0; i < kMine; ++i) {
    const int box = kGroups * i + place.group;
    if (box >= (halves ? kGroups : share.boxes)) break;
    float* const to = exchange + (box * kBox + 16 * place.warp + place.lane / 4) * Shape::kPitch + 2 * (place.lane % 4);
#pragma unroll
    for (int j = 0; j < R / 8; ++j) {
      *reinterpret_cast<float2*>(to + 8 * j) = {sums[i][4 * j], sums[i][4 * j + 1]};
      *reinterpret_cast<float2*>(to + 8 * j + 8 * Shape::kPitch) = {sums[i][4 * j + 2], sums[i][4 * j + 3]};
    }
  }
  wait_for_previous();  // which may still use what the sums go to
  cluster_sync();
  const Own<R> own(matrix, share, rank, blocks);
  for (int id = thread; id < own.count; id += kMultiplying) {
    const int column = own.column(id);
    const Targets targets(p.siblings, own.of_b, own.begin + column, own.rank(id));
    if (targets.none()) continue;
    float old[4];
#pragma unroll
    for (int e = 0; e < 4; ++e) old[e] = p.siblings.add && targets.at[e] != nullptr ? *targets.at[e] : 0.0F;
    float4 sum = {};
    const auto add = [&](const float* there) {
      const float4 part = *reinterpret_cast<const float4*>(there);
      sum.x += part.x;
      sum.y += part.y;
      sum.z += part.z;
      sum.w += part.w;
    };
    const float* const here = exchange + column * Shape::kPitch + own.rank(id);
#pragma unroll
    for (unsigned q = 0; q < kMaxCluster; ++q) {
      if (q >= static_cast<unsigned>(blocks)) break;
      add(in_block(here, q));
      if (halves) add(in_block(here + kBox * Shape::kPitch, q));
    }
    const float made[4] = {sum.x, sum.y, sum.z, sum.w};
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      if (targets.at[e] != nullptr) *targets.at[e] = old[e] + targets.scale * made[e];
    }
  }
  cluster_leave();
#endif
}

}  // namespace wick::cuda::skinny
