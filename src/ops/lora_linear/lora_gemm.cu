// The bordered product with its narrow half inside: c = a W + t U, where t = a V has the rank as its width. Forward a
// is x, W the weight, V the stacked A and U the scaled B; backward a is dy, V the scaled B and U the stacked A.
//
// A block makes tiles of 128 rows and kColumns columns of c, in the registers of two groups of four warps; a third
// group fetches. Those tiles that have the first columns come first. They make t of their rows beside their product, in
// registers, use it and write it; every other tile of these rows ends with one more product, of the t that it reads. So
// a is read for its large product alone, and t costs what a few tiles more would.

#include <algorithm>
#include <type_traits>

#include "backend/cuda/arrival.cuh"
#include "backend/cuda/kernels.cuh"
#include "backend/cuda/tensor_map.h"
#include "backend/cuda/warp_group_wide.cuh"
#include "ops/lora_linear/lora_linear.h"

namespace wick::cuda {
namespace {

constexpr int kGroups = 2;
constexpr int kRows = 64 * kGroups;
constexpr int kDepth = 64;  // elements of k in 128 bytes
constexpr int kThreads = (kGroups + 1) * 128;
[[maybe_unused]] constexpr int kFetchRegisters = 24;
[[maybe_unused]] constexpr int kRegisters = 240;
constexpr int kSlice = 16;  // of the rank
constexpr int kMaxSlices = 3;
constexpr int kWideBox = 64;                     // columns of a box of W or U where these lie along columns
constexpr int kOutBox = 32;                      // columns of a box of c
[[maybe_unused]] constexpr int kSuperRows = 16;  // so many tiles one below the other are neighbours in time, for L2
constexpr int kSharedLimit = 227 * 1024 - 1024;  // but for what the alignment may take
constexpr int kArrivals = 128;                   // bytes of it

constexpr int kOut = 64 * kOutBox * 2;  // a group's box of c

template <LoraWay kWay, int kColumns, int kSlices>
struct Shape {
  static constexpr bool kForward = kWay == LoraWay::forward;
  static constexpr int kBoxes = (kColumns + kWideBox - 1) / kWideBox;
  static constexpr int kPieceA = kRows * kDepth * 2;
  static constexpr int kPieceW = (kForward ? kColumns : kBoxes * kWideBox) * kDepth * 2;
  static constexpr int kSliceV = kSlice * kDepth * 2;
  static constexpr int kSliceU = (kForward ? kColumns : kBoxes * kWideBox) * kSlice * 2;
  static constexpr int kStage = kPieceA + kPieceW + kSlices * kSliceV;
  static constexpr int kStages = 4;
  static constexpr int kOutBuffers = kStages * kStage + 2 * kGroups * kOut + kArrivals <= kSharedLimit ? 2 : 1;
  static constexpr int kShared = 1024 + kStages * kStage + kOutBuffers * kGroups * kOut + kArrivals;
  static_assert(kShared - 1024 <= kSharedLimit);
  static_assert(kSlices * kSliceU <= kPieceW, "U takes the place of W");
  static_assert(kPieceW % 1024 == 0 && kStage % 1024 == 0 && 2 * kStages * sizeof(Arrival) <= kArrivals);
};

template <class T>
struct Arguments {
  CUtensorMap a;  // boxes of a [rows, k]
  CUtensorMap w;  // forward: a tile's rows of W [columns, k]; backward: boxes of W [k, columns]
  CUtensorMap v;  // forward: 16 rows of A [rank, k]; backward: narrow boxes of sB [k, rank]
  CUtensorMap u;  // forward: narrow boxes of sB [columns, rank]; backward: boxes of 16 rows of A [rank, columns]
  CUtensorMap c;  // half boxes of c [rows, columns]
  const T* bias;  // null: none
  T* t;           // [rows, rank]
  std::int64_t t_row;
  int rows, columns;
  int depths;        // k / kDepth, rounded up
  int down, across;  // tiles
};

// For every 16 rows of t, the warps that have written or read it. Back at 0 when all have, so that the next launch
// finds it so. All launches on a device are on one stream.
constexpr int kMaxRows = 1 << 20;
[[maybe_unused]] __device__ unsigned lora_gemm_marks[kMaxRows / kSlice];

struct Tile {
  int row, column;  // of the first element, in tiles
};
template <class T>
__device__ inline Tile tile_at(const Arguments<T>& in, int number) {
  if (number < in.down) return {number, 0};
  const int rest = number - in.down;
  const int others = in.across - 1;
  const int first = rest / (kSuperRows * others) * kSuperRows;
  const int height = min(kSuperRows, in.down - first);
  const int within = rest % (kSuperRows * others);
  return {first + within % height, 1 + within / height};
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
template <class T, int kSlices>
__device__ inline void load_narrow(const Arguments<T>& in, std::uint32_t (&held)[kSlices][4], int row, int lane) {
#pragma unroll
  for (int s = 0; s < kSlices; ++s) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int at = row + 8 * (i % 2);
      const T* const from = in.t + at * in.t_row + s * kSlice + 2 * (lane % 4) + 8 * (i / 2);
      held[s][i] = at < in.rows ? __ldcg(reinterpret_cast<const unsigned*>(from)) : 0;
    }
  }
}

// By all lanes of a warp, after they wrote.
[[maybe_unused]] __device__ inline void announce(unsigned* mark, int lane) {
  __threadfence();
  __syncwarp();
  if (lane == 0) atomicAdd(mark, 1U);
}
// By all lanes. Once it is not 0, what was announced may be read.
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
template <class T, int kColumns, int kBuffers>
__device__ inline void store_tile(const Arguments<T>& in, const float (&sums)[kColumns / 2], unsigned char* out,
                                  int row, int column, int group) {
  const int thread = static_cast<int>(threadIdx.x) % 128;
  const int lane = thread % 32;
#pragma unroll
  for (int box = 0; box < kColumns / kOutBox; ++box) {
    const std::uint32_t to = shared_address(out + box % kBuffers * kOut);
    // The box that stood here has left: the one before the last, or, of the tile before, the last.
    constexpr bool kOdd = kColumns / kOutBox % kBuffers != 0;
    if (thread == 0) {
      if (kOdd && box == 0) {
        wait_stores_read<0>();
      } else {
        wait_stores_read<kBuffers - 1>();
      }
    }
    group_barrier(group);
#pragma unroll
    for (int part = 0; part < kOutBox / 16; ++part) {
      const float* const s = sums + 16 * box + 8 * part;
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
      const std::uint32_t at =
          static_cast<std::uint32_t>((thread / 32 * 16 + lane % 16) * (kOutBox * 2) + (2 * part + lane / 16) * 16);
      store_matrices(to + (at ^ (at >> 7 & 3U) << 4), words);
    }
    show_to_products();
    group_barrier(group);
    if (thread == 0) store_box(in.c, column + box * kOutBox, row, to);
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
  auto* const full = reinterpret_cast<Arrival*>(out + S::kOutBuffers * kGroups * kOut);
  auto* const empty = full + S::kStages;
  const int thread = static_cast<int>(threadIdx.x);
  const int tiles = in.down * in.across;
  if (thread == 0) {
    for (int s = 0; s < S::kStages; ++s) {
      arrival_init(empty + s, kGroups * 4);  // the warps that multiply
      arrival_init(full + s);
    }
    for (const CUtensorMap* map : {&in.a, &in.w, &in.v, &in.u, &in.c}) prefetch(*map);
  }
  show_to_products();
  __syncthreads();
  wait_for_previous();
  allow_next();

  if (thread / 128 == kGroups) {
    give_registers<kFetchRegisters>();
    if (thread % 128 != 0) return;
    int piece = 0;
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
      const bool with_narrow = tile.column == 0;
      for (int depth = 0; depth < in.depths; ++depth) {
        const int stage = next(S::kPieceA + S::kPieceW + (with_narrow ? kSlices * S::kSliceV : 0));
        const std::uint32_t to = start + stage * S::kStage;
        const std::uint32_t to_w = to + S::kPieceA;
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
          load_box(to_w + S::kPieceW + s * S::kSliceV, in.v, S::kForward ? k : at, S::kForward ? at : k, full + stage);
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
  // The products of one stage, with those of V where it is there.
  const auto multiply = [&]<bool kWithNarrow>(std::bool_constant<kWithNarrow>, float(&narrow)[8 * kSlices], bool add) {
    const std::uint32_t from = next();
    const std::uint64_t a = tile_descriptor(from + group * (S::kPieceA / kGroups));
    const std::uint32_t from_w = from + S::kPieceA;
    const std::uint32_t from_v = from_w + S::kPieceW;
    const std::uint64_t w = S::kForward ? tile_descriptor(from_w) : wide_descriptor<kDepth>(from_w);
    const std::uint64_t v = S::kForward ? tile_descriptor(from_v) : narrow_descriptor(from_v);
    begin_products();
#pragma unroll
    for (int k = 0; k < kDepth / 16; ++k) {
      multiply_add_wide<T, kColumns, kRight>(sums, a + 2 * k, w + (S::kForward ? 2 : 128) * k, add || k > 0);
      if constexpr (kWithNarrow) {
        multiply_add_wide<T, kSlice * kSlices, kRight>(narrow, a + 2 * k, v + (S::kForward ? 2 : 32) * k, add || k > 0);
      }
    }
    close_products();
  };
  // Those of a tile; between(depth) is called while those of `depth` are under way.
  const auto multiply_all = [&](auto with_narrow, float(&narrow)[8 * kSlices], const auto& between) {
    multiply(with_narrow, narrow, false);
    for (int depth = 1; depth < in.depths; ++depth) {
      multiply(with_narrow, narrow, true);
      wait_products<1>();
      release(piece - 2);
      between(depth);
    }
  };
  for (int number = static_cast<int>(blockIdx.x); number < tiles; number += static_cast<int>(gridDim.x)) {
    const Tile tile = tile_at(in, number);
    const int warp_row = tile.row * kRows + thread / 32 * 16;
    const int row = warp_row + lane / 4;
    unsigned* const mark = lora_gemm_marks + warp_row / kSlice;
    std::uint32_t held[kSlices][4];
    float narrow[8 * kSlices];
    settle(sums);
    if (tile.column == 0) {
      settle(narrow);
      multiply_all(std::true_type{}, narrow, [](int) {});
      wait_products<0>();
      settle(narrow);
#pragma unroll
      for (int s = 0; s < kSlices; ++s) fragments_of<T>(narrow + 8 * s, held[s]);
      store_narrow(in, held, row, lane);
      if (in.across > 1) announce(mark, lane);
    } else {
      // t is asked for early, so that neither its mark nor itself is waited for, unless it is late.
      unsigned marked = 0;
      multiply_all(std::false_type{}, narrow, [&](int depth) {
        if (depth == in.depths - 3) marked = acquire(mark);
        if (depth == in.depths - 2 && marked != 0) load_narrow(in, held, row, lane);
      });
      if (marked == 0) {
        while (acquire(mark) == 0) {
        }
        load_narrow(in, held, row, lane);
      }
    }
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
    if (tile.column > 0) have_read(mark, in.across, lane);
    wait_products<0>();
    settle(sums);
    release(piece - 2);
    release(piece - 1);
    store_tile<T, kColumns, S::kOutBuffers>(in, sums, out + group * S::kOutBuffers * kOut,
                                            tile.row * kRows + group * 64, tile.column * kColumns, group);
  }
  if (thread % 128 == 0) wait_stores();
#endif
}

#ifdef WICK_SM_90A
constexpr bool kCompiled = true;
#else
constexpr bool kCompiled = false;
#endif

// Columns of a tile: those with which the blocks' turns take the least time.
int columns_of_tile(int down, std::int64_t columns, int blocks) {
  int best = 0;
  std::int64_t least = 0;
  for (const int width : {256, 224, 192}) {
    const std::int64_t tiles = down * ((columns + width - 1) / width);
    const std::int64_t time = (tiles + blocks - 1) / blocks * width;
    if (best != 0 && time >= least) continue;
    best = width;
    least = time;
  }
  return best;
}

template <class T, LoraWay kWay, int kColumns, int kSlices>
void run(const Arguments<T>& in, const Work& work, int blocks) {
  launch(work, lora_gemm_kernel<T, kWay, kColumns, kSlices>,
         {.grid = dim3(static_cast<unsigned>(std::min(in.down * in.across, blocks))),
          .block = dim3(kThreads),
          .shared = Shape<kWay, kColumns, kSlices>::kShared,
          .overlap = true},
         in);
}

template <class T, LoraWay kWay>
void run(const Tensor& a, const LoraWeight& weight, const Tensor& bias, const Tensor& t, const Tensor& c) {
  constexpr bool kForward = kWay == LoraWay::forward;
  const int blocks = info(a.device().index).multiprocessors;
  const int down = static_cast<int>((a.size(0) + kRows - 1) / kRows);
  const int width = columns_of_tile(down, c.size(1), blocks);
  const Tensor& w = weight.core();
  const Arguments<T> in = {
      .a = boxes_of(a, kRows, kDepth),
      .w = kForward ? boxes_of(w, width, kDepth) : boxes_of(w, kDepth, kWideBox),
      .v = kForward ? boxes_of(weight.a(), kSlice, kDepth) : narrow_boxes_of(weight.scaled_b(), kDepth),
      .u = kForward ? narrow_boxes_of(weight.scaled_b(), width) : boxes_of(weight.a(), kSlice, kWideBox),
      .c = half_boxes_of(c, 64),
      .bias = pointer<const T>(bias),
      .t = pointer<T>(t),
      .t_row = t.stride(0),
      .rows = static_cast<int>(a.size(0)),
      .columns = static_cast<int>(c.size(1)),
      .depths = static_cast<int>((a.size(1) + kDepth - 1) / kDepth),
      .down = down,
      .across = static_cast<int>((c.size(1) + width - 1) / width)};
  const Work work{.name = kForward ? "lora gemm" : "lora gemm backward",
                  .bytes = static_cast<double>(a.numel() + w.numel() + c.numel()) * sizeof(T),
                  .flops = 2.0 * static_cast<double>(c.numel() + 2 * t.numel()) * static_cast<double>(a.size(1)),
                  .m = a.size(0),
                  .n = c.size(1),
                  .k = a.size(1)};
  const auto with_columns = [&](auto slices) {
    constexpr int kSlices = decltype(slices)::value;
    if (width == 192) return run<T, kWay, 192, kSlices>(in, work, blocks);
    if (width == 224) return run<T, kWay, 224, kSlices>(in, work, blocks);
    run<T, kWay, 256, kSlices>(in, work, blocks);
  };
  if (t.size(1) == kSlice) return with_columns(std::integral_constant<int, 1>{});
  if (t.size(1) == 2 * kSlice) return with_columns(std::integral_constant<int, 2>{});
  with_columns(std::integral_constant<int, kMaxSlices>{});
}

Declined lora_product_cuda(LoraWay way, const Tensor& a, const LoraWeight& weight, const Tensor& bias, const Tensor& t,
                           const Tensor& c) {
  if (!kCompiled || info(a.device().index).major != 9) return "no code for sm_90a, or not such a device";
  if (a.dtype() != DType::bf16 && a.dtype() != DType::f16) return "neither bf16 nor f16";
  if (t.size(1) % kSlice != 0 || t.size(1) > kMaxSlices * kSlice) return "a rank that is not 16, 32 or 48";
  if (a.size(0) == 0 || a.size(0) > kMaxRows) return "no rows, or more than 2^20";
  if (a.size(1) == 0 || c.size(1) == 0 || a.size(1) % 8 != 0 || c.size(1) % 8 != 0) return "no multiple of 8 columns";
  if (a.size(1) > (1 << 30) || c.size(1) > (1 << 30)) return "an extent past 2^30";
  for (const Tensor* matrix : {&a, &weight.core(), &weight.a(), &weight.scaled_b(), &t, &c}) {
    if (matrix->stride(1) != 1 || !packs(*matrix)) return "rows that are not dense or not aligned to 16 bytes";
  }
  if (bias.defined() && !packs(bias)) return "a bias that is not aligned to 16 bytes";
  const auto run_as = [&](auto zero) {
    using T = decltype(zero);
    way == LoraWay::forward ? run<T, LoraWay::forward>(a, weight, bias, t, c)
                            : run<T, LoraWay::backward>(a, weight, bias, t, c);
  };
  a.dtype() == DType::bf16 ? run_as(__nv_bfloat16{}) : run_as(__half{});
  return nullptr;
}

}  // namespace

void register_lora_product() { lora_product.on(DeviceType::cuda) = lora_product_cuda; }

}  // namespace wick::cuda
