#pragma once

// gᵀ x, the gradient of A, and s dyᵀ h, that of B, both or one of them in one launch. A cluster has some columns of x
// or of dy, each of its blocks some of the rows (OuterPlan), so the sums are complete within the cluster.

#include <type_traits>

#include "ops/lora_linear/lora_outer_plan.h"
#include "ops/lora_linear/lora_project.cuh"

namespace wick::cuda::skinny {

static_assert(OuterPlan::kBox == kBox && OuterPlan::kMaxCluster == static_cast<int>(kMaxCluster));

struct Outer {
  struct Matrix {
    CUtensorMap tall;    // boxes of kRows rows of x or dy [rows, columns]
    CUtensorMap narrow;  // narrow boxes of as many of g or h [rows, R]
    int columns;
    int slots, narrow_slots;  // OuterShape's, for its widest clusters
    bool of_b;                // dy and h
  };
  Matrix matrices[OuterPlan::kMatrices];
  OuterPlan plan;
  const float* partial;  // project's, [ranges, n, R]; null: there are none
  int ranges, n;
  Siblings siblings;
};

template <int R>
struct OuterShape {
  static constexpr int kRows = OuterPlan::kRows;     // of a box: one thread starts all copies, so they must be few
  static constexpr int kTall = kRows * kBox * 2;     // bytes of a box
  static constexpr int kNarrowBox = kRows * 16 * 2;  // of 16 ranks
  static constexpr int kNarrow = kNarrowBox * (R / 16);
  static constexpr int kMultiplying = 128;  // threads: one group, which is twice as fast as memory
  // And a warp that fetches x or dy, and one that waits for g. So few have registers enough where a multiprocessor has
  // two blocks: the next launch's first boxes come while this one ends.
  static constexpr int kThreads = kMultiplying + 2 * 32;
  static constexpr int kMostBoxes = OuterPlan::kMaxBoxes * 16 / R;  // across
  static constexpr int kArrivals = 1024;                            // bytes
  static constexpr int kBytes = OuterPlan::kSharedBytes;
  static constexpr int kRoom = kBytes - 1024 - kArrivals;  // but for what the alignment may take

  /// Bytes where a block gets, from all blocks of its cluster, the sums of its share of the columns.
  static constexpr int received(int boxes) { return (boxes * kBox + OuterPlan::kMaxCluster) * R * 4; }
  /// Places in the ring of a block that has `boxes` boxes across, and in that of the narrow boxes beside them: for as
  /// many rows, and to have one on its way.
  static constexpr int narrow_slots(int slots, int boxes) {
    const int rows = (slots + boxes - 1) / boxes;
    return rows > 2 ? rows : 2;
  }
  static constexpr int slots(int boxes) {
    int count = (kRoom - received(boxes)) / kTall;
    while (count * kTall + narrow_slots(count, boxes) * kNarrow + received(boxes) > kRoom) --count;
    return count;
  }
  static_assert(slots(kMostBoxes) >= 2, "one is on its way");
  static_assert((2 * slots(1) + 2 * narrow_slots(slots(1), 1) + 1) * sizeof(Arrival) <= kArrivals);
};

/// A place in a ring of `slots`, and how often it has gone round.
struct Turn {
  int slots;
  int at = 0;
  unsigned round = 0;

  __device__ void advance() {
    if (++at < slots) return;
    at = 0;
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
};

/// The sums that a block adds up in the end, from all blocks of its cluster, four at a time: a share of the columns.
template <int R>
struct Own {
  int begin;   // the cluster's first column, from where the others count
  int extent;  // its columns
  int each;    // of them in a share, but for the last ones
  int shares;  // in a column, of 1 << 20: there are at most 768 columns
  int from, width, count;
  bool of_b;

  __device__ Own(const Outer::Matrix& matrix, const OuterPlan::Share& share, int rank, int blocks)
      : begin(share.box * kBox), extent(min(share.boxes * kBox, matrix.columns - begin)), of_b(matrix.of_b) {
    each = (extent + blocks - 1) / blocks;
    shares = ((1 << 20) + each - 1) / each;
    from = min(rank * each, extent);
    width = min(each, extent - from);
    count = width * (R / 4);
  }
  __device__ int owner(int column) const { return column * shares >> 20; }  // of the extent's
  // Side by side in memory are the ranks of a column of dy, the columns of a rank of x.
  __device__ int column(int id) const { return of_b ? id / (R / 4) : id % width; }  // of the share
  __device__ int rank(int id) const { return 4 * (of_b ? id % (R / 4) : id / width); }
  __device__ Targets targets(const Siblings& siblings, int id) const {
    return {siblings, of_b, begin + from + column(id), rank(id)};
  }
};

template <class T, int R>
__global__ __launch_bounds__(OuterShape<R>::kThreads,
                             OuterPlan::kRoom) void outer_kernel(const __grid_constant__ Outer p) {
#ifdef WICK_WARP_GROUPS
  using Shape = OuterShape<R>;
  const Place place;
  const int rank = static_cast<int>(cluster_rank());
  const int blocks = static_cast<int>(cluster_blocks());
  const OuterPlan::Share share = p.plan.share(static_cast<int>(blocks > 1 ? cluster_index() : blockIdx.x), rank);
  const Outer::Matrix& matrix = p.matrices[share.matrix];
  const int slots = matrix.slots;
  const int narrow_slots = matrix.narrow_slots;

  unsigned char* const ring = aligned_shared();
  unsigned char* const narrow_ring = ring + slots * Shape::kTall;
  auto* const sent = reinterpret_cast<float*>(narrow_ring + narrow_slots * Shape::kNarrow);  // [blocks, own.each, R]
  auto* const full = reinterpret_cast<Arrival*>(ring + Shape::kRoom);
  Arrival* const empty = full + slots;
  Arrival* const narrow_full = empty + slots;
  Arrival* const narrow_empty = narrow_full + narrow_slots;
  Arrival* const all_sent = narrow_empty + narrow_slots;
  if (place.lane == 0) {
    // A warp sets up one after the other, whichever threads do it.
    const auto set_up = [](Arrival* from, const Arrival* to, auto parties) {
#pragma unroll 1
      for (; from < to; ++from) arrival_init(from, parties());
    };
    constexpr std::integral_constant<std::uint32_t, 1> kFetching;
    constexpr std::integral_constant<std::uint32_t, Shape::kMultiplying / 32> kWarps;
    switch (threadIdx.x / 32) {
      case 0:
        set_up(full, empty, kFetching);
        break;
      case 1:
        set_up(empty, narrow_full, kWarps);
        break;
      case 2:
        set_up(narrow_full, narrow_empty, kFetching);
        break;
      case 3:
        set_up(narrow_empty, all_sent, kWarps);
        break;
      case 4:
        prefetch(matrix.tall);
        break;
      default:
        set_up(all_sent, all_sent + 1, kFetching);
        if (blocks > 1) {
          arrival_expect(all_sent, static_cast<unsigned>(blocks * Own<R>(matrix, share, rank, blocks).width * R * 4));
        }
        prefetch(matrix.narrow);
    }
    show_to_products();
  }
  __syncthreads();
  if (blocks > 1) cluster_arrive_first();  // none sends to a block that has not begun

  if (place.group > 0) {
    const auto bring_narrow = [&](int row, Turn& turn) {
      arrival_wait(narrow_empty + turn.at, (turn.round + 1) & 1U);  // at once in the first round
      arrival_expect(narrow_full + turn.at, Shape::kNarrow);
#pragma unroll
      for (int j = 0; j < R / 16; ++j) {
        load_box(shared_address(narrow_ring + turn.at * Shape::kNarrow + j * Shape::kNarrowBox), matrix.narrow, 16 * j,
                 (share.row_box + row) * Shape::kRows, narrow_full + turn.at);
      }
      turn.advance();
    };
    Turn narrow_turn = {narrow_slots};
    if (place.warp == 0 && place.lane == 0) {
      // x, dy and h are older than the kernel before this one, which has itself waited for those before it. L2 need
      // not keep x and dy: each box is read once.
      const L2Policy policy = l2_policy(Evict::first);
      Turn turn = {slots};
      for (int row = 0; row < share.row_boxes; ++row) {
        if (matrix.of_b) bring_narrow(row, narrow_turn);
        for (int box = 0; box < share.boxes; ++box) {
          arrival_wait(empty + turn.at, (turn.round + 1) & 1U);
          arrival_expect(full + turn.at, Shape::kTall);
          load_box(shared_address(ring + turn.at * Shape::kTall), matrix.tall, (share.box + box) * kBox,
                   (share.row_box + row) * Shape::kRows, full + turn.at, policy);
          turn.advance();
        }
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
        const Targets targets = own.targets(p.siblings, id);
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          if (targets.at[e] != nullptr) prefetch(targets.at[e]);
        }
      }
    }
    __syncwarp();
    if (blocks > 1) cluster_wait();
    return;
  }

  if (p.partial != nullptr) {
    wait_for_previous();
    add_partials<R, Shape::kMultiplying>(p.partial, p.ranges, p.n, p.siblings);
  }
  float sums[Shape::kMostBoxes][R / 2] = {};
  Turn turn = {slots};
  Turn narrow_turn = {narrow_slots};
  for (int row = 0; row < share.row_boxes; ++row) {
    arrival_wait(narrow_full + narrow_turn.at, narrow_turn.round & 1U);
    const std::uint64_t narrow =
        narrow_descriptor<Shape::kRows>(shared_address(narrow_ring + narrow_turn.at * Shape::kNarrow));
#pragma unroll
    for (int i = 0; i < Shape::kMostBoxes; ++i) {
      if (i >= share.boxes) break;
      arrival_wait(full + turn.at, turn.round & 1U);
      const std::uint64_t tall = tile_descriptor(shared_address(ring + turn.at * Shape::kTall));
      settle(sums[i]);
      begin_products();
#pragma unroll
      for (int k = 0; k < Shape::kRows / 16; ++k) {
        multiply_add_narrow<T, R, Along::rows>(sums[i], tall + 128 * k, narrow + 32 * k, true);
      }
      close_products();
      wait_products<0>();
      settle(sums[i]);
      if (place.lane == 0) arrive(empty + turn.at);
      turn.advance();
    }
    if (place.lane == 0) arrive(narrow_empty + narrow_turn.at);
    narrow_turn.advance();
  }

  // Each sum to whom its column belongs. The places for this are nobody else's, so that no block waits before it sends,
  // and each ends when it has all of its own.
  const Own<R> own(matrix, share, rank, blocks);
  if (blocks > 1) cluster_wait();  // all have begun
#pragma unroll
  for (int i = 0; i < Shape::kMostBoxes; ++i) {
    if (i >= share.boxes) break;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int column = i * kBox + 16 * place.warp + place.lane / 4 + 8 * half;
      if (column >= own.extent) continue;
      const int owner = own.owner(column);
      float* const to = sent + ((rank - owner) * own.each + column) * R + 2 * (place.lane % 4);
#pragma unroll
      for (int j = 0; j < R / 8; ++j) {
        const float2 pair = {sums[i][4 * j + 2 * half], sums[i][4 * j + 2 * half + 1]};
        auto* const at = reinterpret_cast<float2*>(to + 8 * j);
        if (blocks > 1) {
          send_async(at, pair, all_sent, static_cast<unsigned>(owner));
        } else {
          *at = pair;
        }
      }
    }
  }
  wait_for_previous();  // which may still use what the sums go to
  // Of those alone that multiply: the others have left.
  if (blocks == 1) barrier_of_first<Shape::kMultiplying>();
  for (int id = static_cast<int>(threadIdx.x); id < own.count; id += Shape::kMultiplying) {
    const Targets targets = own.targets(p.siblings, id);
    float old[4];
#pragma unroll
    for (int e = 0; e < 4; ++e) old[e] = p.siblings.add && targets.at[e] != nullptr ? *targets.at[e] : 0.0F;
    if (blocks > 1) arrival_wait(all_sent, 0);
    const float* const from = sent + own.column(id) * R + own.rank(id);
    float4 sum = {};
#pragma unroll
    for (int q = 0; q < static_cast<int>(kMaxCluster); ++q) {
      if (q >= blocks) break;
      const float4 part = *reinterpret_cast<const float4*>(from + q * own.each * R);
      sum.x += part.x;
      sum.y += part.y;
      sum.z += part.z;
      sum.w += part.w;
    }
    const float made[4] = {sum.x, sum.y, sum.z, sum.w};
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      if (targets.at[e] != nullptr) *targets.at[e] = old[e] + targets.scale * made[e];
    }
  }
#endif
}

}  // namespace wick::cuda::skinny
