#pragma once

// The bordered product with its narrow half inside: c = a W + t U, where t = a V has the rank as its width. Forward a
// is x, W the weight, V the stacked A and U the scaled B; backward a is dy, V the scaled B and U the stacked A.
//
// A block makes tiles of 128 rows and kColumns columns of c, in the registers of two groups of four warps; a third
// group fetches. Those tiles that have the first columns come first. They make t of their rows beside their product, in
// registers, use it and write it; every other tile of these rows ends with one more product, of the t that it reads. So
// a is read for its large product alone, and t costs what a few tiles more would. Where that leaves blocks idle, the
// tiles of the first and of the second columns share the sum: each begins with its half of k, so that the halves are
// there long before either tile needs t.

#include <type_traits>

#include "backend/cuda/arrival.cuh"
#include "backend/cuda/kernels.cuh"
#include "backend/cuda/ptx.cuh"
#include "backend/cuda/tensor_map.h"
#include "backend/cuda/warp_group_wide.cuh"
#include "ops/lora_linear/lora_linear.h"

namespace wick::cuda::product_with_narrow {

inline constexpr int kGroups = 2;
inline constexpr int kRows = 64 * kGroups;
inline constexpr int kDepth = 64;  // elements of k in 128 bytes
inline constexpr int kThreads = (kGroups + 1) * 128;
inline constexpr int kFetchRegisters = 24;
inline constexpr int kRegisters = 240;
inline constexpr int kSlice = 16;  // of the rank
inline constexpr int kMaxSlices = 3;
inline constexpr int kSharedDepths = 32;  // from so many on two tiles share t's sum: their exchange takes time too
inline constexpr int kWideBox = 64;       // columns of a box of W or U where these lie along columns
inline constexpr int kOutBox = 64;        // columns of a box of c
inline constexpr int kSuperRows = 16;     // so many tiles one below the other are neighbours in time, for L2
inline constexpr int kSharedLimit = 227 * 1024 - 1024;  // but for what the alignment may take
inline constexpr int kArrivals = 128;                   // bytes of it

inline constexpr int kOut = 64 * kOutBox * 2;  // bytes of a group's box of c
inline constexpr int kOutBuffers = 2;          // of a group

template <LoraWay kWay, int kColumns, int kSlices>
struct Shape {
  static constexpr bool kForward = kWay == LoraWay::forward;
  static constexpr int kBoxes = (kColumns + kWideBox - 1) / kWideBox;
  static constexpr int kPieceA = kRows * kDepth * 2;
  static constexpr int kPieceW = (kForward ? kColumns : kBoxes * kWideBox) * kDepth * 2;
  static constexpr int kSliceV = kSlice * kDepth * 2;
  static constexpr int kSliceU = (kForward ? kColumns : kBoxes * kWideBox) * kSlice * 2;
  static constexpr int kStage = kPieceA + kPieceW;
  static constexpr int kStages = 4;
  static constexpr int kOuts = kGroups * kOutBuffers * kOut;
  // The pieces of V are where boxes of c leave from: no tile is stored while t is made.
  static_assert(kStages * kSlices * kSliceV <= kOuts);
  static constexpr int kShared = 1024 + kStages * kStage + kOuts + kArrivals;
  static_assert(kShared - 1024 <= kSharedLimit);
  static_assert(kSlices * kSliceU <= kPieceW, "U takes the place of W");
  static_assert(kPieceW % 1024 == 0 && kStage % 1024 == 0 && (2 * kStages + 1) * sizeof(Arrival) <= kArrivals);
};

template <class T>
struct Arguments {
  CUtensorMap a;       // boxes of a [rows, k]
  CUtensorMap w;       // forward: a tile's rows of W [columns, k]; backward: boxes of W [k, columns]
  CUtensorMap v;       // forward: 16 rows of A [rank, k]; backward: narrow boxes of sB [k, rank]
  CUtensorMap u;       // forward: narrow boxes of sB [columns, rank]; backward: boxes of 16 rows of A [rank, columns]
  CUtensorMap c;       // boxes of c [rows, columns]
  CUtensorMap c_half;  // half boxes of it
  const T* bias;       // null: none
  T* t;                // [rows, rank]
  std::int64_t t_row;
  float* partial;  // [parts, down * kRows / 16, slices, 32 lanes, 8]: sums of t
  int parts;       // the first columns of tiles, 1 or 2, make t
  int split;       // depths that the first of them takes
  int rows, columns;
  int depths;        // k / kDepth, rounded up
  int down, across;  // tiles
};

// For every 16 rows of t, the warps that have written sums of it or read them. Back at 0 when all have, so that the
// next launch finds it so. All launches on a device are on one stream.
inline constexpr int kMaxRows = 1 << 20;
[[maybe_unused]] static __device__ unsigned marks[kMaxRows / kSlice];

struct Tile {
  int row, column;  // of the first element, in tiles
};
template <class T>
__device__ inline Tile tile_at(const Arguments<T>& in, int number) {
  const int firsts = in.parts * in.down;
  if (number < firsts) return number < in.down ? Tile{number, 0} : Tile{number - in.down, 1};
  const int rest = number - firsts;
  const int others = in.across - in.parts;
  const int first = rest / (kSuperRows * others) * kSuperRows;
  const int height = min(kSuperRows, in.down - first);
  const int within = rest % (kSuperRows * others);
  return {first + within % height, in.parts + within / height};
}
// The depths of which a tile makes t's sums: those that it begins with.
struct Part {
  int first, count;
};
template <class T>
__device__ inline Part part_of(const Arguments<T>& in, int column) {
  if (column == 0) return {0, in.split};
  if (column < in.parts) return {in.split, in.depths - in.split};
  return {0, 0};
}

// The thread's part of 16 rows of t: fragments as fragments_of() gives them. `row` is the thread's, if it is there.
template <class T, int kSlices>
__device__ inline void store_narrow(const Arguments<T>& in, const std::uint32_t (&held)[kSlices][4], int row,
                                    int lane) {
#pragma unroll
  for (int s = 0; s < kSlices; ++s) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int at = row + 8 * (i % 2);
      T* const to = in.t + at * in.t_row + s * kSlice + 2 * (lane % 4) + 8 * (i / 2);
      if (at < in.rows) *reinterpret_cast<std::uint32_t*>(to) = held[s][i];
    }
  }
}
// A lane's place for a part's sums of 16 rows of t, as it has them in registers.
template <class T>
__device__ inline float* partial_of(const Arguments<T>& in, int part, int row_slice, int slices, int lane) {
  const std::int64_t slice = static_cast<std::int64_t>(part) * (in.down * (kRows / kSlice)) + row_slice;
  return in.partial + slice * slices * 256 + lane * 8;
}
template <class T, int kSlices>
__device__ inline void store_partial(const Arguments<T>& in, const float (&narrow)[8 * kSlices], int part,
                                     int row_slice, int lane) {
  float* const to = partial_of(in, part, row_slice, kSlices, lane);
#pragma unroll
  for (int s = 0; s < kSlices; ++s) {
#pragma unroll
    for (int i = 0; i < 8; i += 4) {
      *reinterpret_cast<float4*>(to + s * 256 + i) = {narrow[8 * s + i], narrow[8 * s + i + 1], narrow[8 * s + i + 2],
                                                      narrow[8 * s + i + 3]};
    }
  }
}
// Fragments of the sums of all parts.
template <class T, int kSlices>
__device__ inline void load_narrow(const Arguments<T>& in, std::uint32_t (&held)[kSlices][4], int row_slice, int lane) {
#pragma unroll
  for (int s = 0; s < kSlices; ++s) {
    float sums[8] = {};
    for (int part = 0; part < in.parts; ++part) {
      const auto* const from =
          reinterpret_cast<const float4*>(partial_of(in, part, row_slice, kSlices, lane) + s * 256);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float4 four = __ldcg(from + i);
        sums[4 * i] += four.x;
        sums[4 * i + 1] += four.y;
        sums[4 * i + 2] += four.z;
        sums[4 * i + 3] += four.w;
      }
    }
    fragments_of<T>(sums, held[s]);
  }
}

// By all lanes of a warp, after they wrote.
[[maybe_unused]] __device__ inline void announce(unsigned* mark, int lane) {
  __syncwarp();
  if (lane != 0) return;
  __threadfence();  // of what all of them wrote
  atomicAdd(mark, 1U);
}
// By all lanes: how many have announced, or read since. What was announced may then be read.
[[maybe_unused]] __device__ inline unsigned acquire(const unsigned* mark) {
  unsigned count;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(count) : "l"(mark) : "memory");
  return count;
}
[[maybe_unused]] __device__ inline void have_read(unsigned* mark, int tiles, int lane) {
  __syncwarp();
  if (lane == 0 && atomicAdd(mark, 1U) + 1 == static_cast<unsigned>(tiles)) *mark = 0;
}

// A group's 64 rows of c, which go through shared memory a box of columns at a time.
template <class T, int kColumns>
__device__ inline void store_tile(const Arguments<T>& in, const float (&sums)[kColumns / 2], std::uint32_t out, int row,
                                  int column, int group) {
  const int thread = static_cast<int>(threadIdx.x) % 128;
  const int lane = thread % 32;
  constexpr int kBoxes = (kColumns + kOutBox - 1) / kOutBox;
#pragma unroll
  for (int box = 0; box < kBoxes; ++box) {
    const std::uint32_t to = out + box % kOutBuffers * kOut;
    // The box that stood here has left: the one before the last, or, of the tile before, the last.
    if (thread == 0) {
      if (kBoxes % kOutBuffers != 0 && box == 0) {
        wait_stores_read<0>();
      } else {
        wait_stores_read<kOutBuffers - 1>();
      }
    }
    group_barrier(group);
    const bool whole = kColumns - box * kOutBox >= kOutBox;
    const int parts = whole ? kOutBox / 16 : kOutBox / 32;
#pragma unroll
    for (int part = 0; part < parts; ++part) {
      const float* const s = sums + kOutBox / 2 * box + 8 * part;
      float bias[4] = {};
      if (in.bias != nullptr) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int from = column + box * kOutBox + 16 * part + 8 * i + 2 * (lane % 4);
          if (from >= in.columns) continue;
          const Pack<T, 2> pair = load_pack<T, 2>(in.bias + from);
          bias[2 * i] = to_float(pair[0]);
          bias[2 * i + 1] = to_float(pair[1]);
        }
      }
      const unsigned words[4] = {
          pack_pair<T>(s[0] + bias[0], s[1] + bias[1]), pack_pair<T>(s[2] + bias[0], s[3] + bias[1]),
          pack_pair<T>(s[4] + bias[2], s[5] + bias[3]), pack_pair<T>(s[6] + bias[2], s[7] + bias[3])};
      // Rows of 128 bytes, or 64, swizzled as boxes and half boxes are.
      const int r = thread / 32 * 16 + lane % 16;
      const int chunk = 2 * part + lane / 16;
      const int at = whole ? r * 128 + (chunk ^ r % 8) * 16 : r * 64 + (chunk ^ r / 2 % 4) * 16;
      store_matrices(to + static_cast<std::uint32_t>(at), words);
    }
    show_to_products();
    group_barrier(group);
    if (thread == 0) store_box(whole ? in.c : in.c_half, column + box * kOutBox, row, to);
  }
}

template <class T, LoraWay kWay, int kColumns, int kSlices>
__global__ void __launch_bounds__(kThreads, 1) lora_gemm_kernel(const __grid_constant__ Arguments<T> in) {
#ifdef WICK_WARP_GROUPS
  using S = Shape<kWay, kColumns, kSlices>;
  constexpr Right kRight = S::kForward ? Right::along_k : Right::along_columns;
  extern __shared__ __align__(1024) unsigned char memory[];
  unsigned char* const ring = memory + ((1024 - (shared_address(memory) & 1023)) & 1023);
  const std::uint32_t start = shared_address(ring);
  unsigned char* const out = ring + S::kStages * S::kStage;
  const std::uint32_t start_v = start + S::kStages * S::kStage;
  auto* const full = reinterpret_cast<Arrival*>(out + S::kOuts);
  auto* const empty = full + S::kStages;
  auto* const stored = empty + S::kStages;
  const int thread = static_cast<int>(threadIdx.x);
  const int tiles = in.down * in.across;
  if (thread == 0) {
    for (int s = 0; s < S::kStages; ++s) {
      arrival_init(empty + s, kGroups * 4);  // the warps that multiply
      arrival_init(full + s);
    }
    arrival_init(stored, kGroups);
    for (const CUtensorMap* map : {&in.a, &in.w, &in.v, &in.u, &in.c, &in.c_half}) prefetch(*map);
  }
  show_to_products();
  __syncthreads();
  wait_for_previous();
  allow_next();

  if (thread / 128 == kGroups) {
    give_registers<kFetchRegisters>();
    if (thread % 128 != 0) return;
    int piece = 0;
    unsigned waits = 0;
    const auto next = [&](unsigned bytes) {
      const int stage = piece % S::kStages;
      arrival_wait(empty + stage, static_cast<unsigned>(piece / S::kStages + 1) & 1U);  // at once in the first round
      arrival_expect(full + stage, bytes);
      ++piece;
      return stage;
    };
    for (int number = static_cast<int>(blockIdx.x); number < tiles; number += static_cast<int>(gridDim.x)) {
      const Tile tile = tile_at(in, number);
      const int column = tile.column * kColumns;
      const Part part = part_of(in, tile.column);
      // V comes where the tile before is stored from.
      if (part.count > 0 && number != static_cast<int>(blockIdx.x)) arrival_wait(stored, waits++ & 1U);
      for (int i = 0; i < in.depths; ++i) {
        const bool with_narrow = i < part.count;
        const int depth = part.first + i - (part.first + i < in.depths ? 0 : in.depths);
        const int stage = next(S::kPieceA + S::kPieceW + (with_narrow ? kSlices * S::kSliceV : 0));
        const std::uint32_t to = start + stage * S::kStage;
        const std::uint32_t to_w = to + S::kPieceA;
        const std::uint32_t to_v = start_v + stage * (kSlices * S::kSliceV);
        const int k = depth * kDepth;
        load_box(to, in.a, k, tile.row * kRows, full + stage);
        if constexpr (S::kForward) {
          load_box(to_w, in.w, k, column, full + stage);
        } else {
#pragma unroll
          for (int box = 0; box < S::kBoxes; ++box) {
            load_box(to_w + box * (kWideBox * kDepth * 2), in.w, column + box * kWideBox, k, full + stage);
          }
        }
        if (!with_narrow) continue;
#pragma unroll
        for (int s = 0; s < kSlices; ++s) {
          const int at = s * kSlice;
          load_box(to_v + s * S::kSliceV, in.v, S::kForward ? k : at, S::kForward ? at : k, full + stage);
        }
      }
      const int stage = next(kSlices * S::kSliceU);
      const std::uint32_t to = start + stage * S::kStage + S::kPieceA;
#pragma unroll
      for (int s = 0; s < kSlices; ++s) {
        if constexpr (S::kForward) {
          load_box(to + s * S::kSliceU, in.u, s * kSlice, column, full + stage);
        } else {
#pragma unroll
          for (int box = 0; box < S::kBoxes; ++box) {
            load_box(to + s * S::kSliceU + box * (kWideBox * kSlice * 2), in.u, column + box * kWideBox, s * kSlice,
                     full + stage);
          }
        }
      }
    }
    return;
  }

  take_registers<kRegisters>();
  const int group = thread / 128;
  const int lane = thread % 32;
  float sums[kColumns / 2];
  int piece = 0;
  const auto next = [&] {
    const int stage = piece % S::kStages;
    arrival_wait(full + stage, static_cast<unsigned>(piece / S::kStages) & 1U);
    ++piece;
    return start + stage * S::kStage;
  };
  const auto release = [&](int number) {
    if (lane == 0) arrive(empty + number % S::kStages);
  };
  // The products of stage i of a tile, with those of V where it is there.
  const auto multiply = [&]<bool kWithNarrow>(std::bool_constant<kWithNarrow>, float(&narrow)[8 * kSlices], int i) {
    const std::uint32_t from_v = start_v + piece % S::kStages * (kSlices * S::kSliceV);
    const std::uint32_t from = next();
    const std::uint32_t from_w = from + S::kPieceA;
    const std::uint64_t a = tile_descriptor(from + group * (S::kPieceA / kGroups));
    const std::uint64_t w = S::kForward ? tile_descriptor(from_w) : wide_descriptor<kDepth>(from_w);
    const std::uint64_t v = S::kForward ? tile_descriptor(from_v) : narrow_descriptor(from_v);
    begin_products();
#pragma unroll
    for (int k = 0; k < kDepth / 16; ++k) {
      multiply_add_wide<T, kColumns, kRight>(sums, a + 2 * k, w + (S::kForward ? 2 : 128) * k, i > 0 || k > 0);
      if constexpr (kWithNarrow) {
        multiply_add_wide<T, kSlice * kSlices, kRight>(narrow, a + 2 * k, v + (S::kForward ? 2 : 32) * k,
                                                       i > 0 || k > 0);
      }
    }
    close_products();
    if (i == 0) return;
    wait_products<1>();
    release(piece - 2);
  };
  // Found while products are under way.
  Tile upcoming = tile_at(in, static_cast<int>(blockIdx.x));
  for (int number = static_cast<int>(blockIdx.x); number < tiles; number += static_cast<int>(gridDim.x)) {
    const Tile tile = upcoming;
    const bool last = number + static_cast<int>(gridDim.x) >= tiles;
    const Part part = part_of(in, tile.column);
    const int row_slice = tile.row * (kRows / kSlice) + thread / 32;
    unsigned* const mark = marks + row_slice;
    std::uint32_t held[kSlices][4];
    float narrow[8 * kSlices];
    settle(sums);
    settle(narrow);
    for (int i = 0; i < part.count; ++i) multiply(std::true_type{}, narrow, i);
    int i = part.count;
    if (part.count > 0) {
      wait_products<0>();
      settle(narrow);
      float made[8 * kSlices];  // these are stored while the next products are under way
#pragma unroll
      for (int e = 0; e < 8 * kSlices; ++e) made[e] = narrow[e];
#pragma unroll
      for (int s = 0; s < kSlices; ++s) fragments_of<T>(made + 8 * s, held[s]);
      if (i < in.depths) multiply(std::false_type{}, narrow, i++);
      if (in.across > 1) {
        store_partial<T, kSlices>(in, made, tile.column, row_slice, lane);
        announce(mark, lane);
      }
    } else {
      multiply(std::false_type{}, narrow, i++);
    }
    if (!last) upcoming = tile_at(in, number + static_cast<int>(gridDim.x));
    // t is asked for early, so that neither its mark nor itself is waited for, unless it is late.
    unsigned marked = 0;
    for (; i < in.depths; ++i) {
      multiply(std::false_type{}, narrow, i);
      if (i == in.depths - 3) {
        marked = __shfl_sync(0xffffffffU, acquire(mark), 0);
        __syncwarp();  // what the first lane has acquired, all have
      }
      if (i == in.depths - 2 && marked >= in.parts) load_narrow(in, held, row_slice, lane);
    }
    if (part.count < in.depths && marked < in.parts) {
      while (acquire(mark) < in.parts) {
      }
      load_narrow(in, held, row_slice, lane);
    }
    if (tile.column == 0) store_narrow(in, held, row_slice * kSlice + lane / 4, lane);
    __syncwarp();  // lanes may have found the mark at different times
    // Behind the other products, which may still be under way.
    const std::uint32_t u = next() + S::kPieceA;
    begin_products();
#pragma unroll
    for (int s = 0; s < kSlices; ++s) {
      const std::uint32_t at = u + s * S::kSliceU;
      multiply_add_held<T, kColumns, kRight>(sums, held[s],
                                             S::kForward ? narrow_descriptor(at) : wide_descriptor<kSlice>(at));
    }
    close_products();
    if (in.across > 1) have_read(mark, in.across + in.parts, lane);
    wait_products<0>();
    settle(sums);
    release(piece - 2);
    release(piece - 1);
    if (part.count > 0) barrier_of_first<kGroups * 128>();  // V is no longer read
    store_tile<T, kColumns>(in, sums, start_v + group * (kOutBuffers * kOut), tile.row * kRows + group * 64,
                            tile.column * kColumns, group);
    if (!last && upcoming.column < in.parts && thread % 128 == 0) {
      wait_stores_read<0>();
      arrive(stored);
    }
  }
  if (thread % 128 == 0) wait_stores();
#endif
}

}  // namespace wick::cuda::product_with_narrow
