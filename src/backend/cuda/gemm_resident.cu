#include "backend/cuda/gemm_resident.h"

#include "backend/cuda/arrival.cuh"
#include "backend/cuda/gelu.cuh"
#include "backend/cuda/kernels.cuh"
#include "backend/cuda/rows.cuh"
#include "backend/cuda/tensor_map.h"
#include "backend/cuda/warp_group_wide.cuh"

namespace wick::cuda {
namespace {

constexpr int kRows = 64;                      // of a tile of a and c
constexpr int kColumns = 192;                  // of c, rows of the weight that a block keeps
constexpr int kDepth = 64;                     // elements of k in 128 bytes
constexpr int kMaxDepths = 6;                  // k is at most 384
constexpr int kGroups = 3;                     // of warps, with a tile each
constexpr int kRing = 3;                       // pieces [kRows, kDepth] of a in shared memory, of each group
constexpr int kStages = kGroups * kRing;       // of all
constexpr int kThreads = (kGroups + 1) * 128;  // and a group that fetches, which leaves its registers to the others
constexpr int kFetchRegisters = 24;
constexpr int kRegisters = 160;
constexpr std::size_t kPiece = kRows * kDepth * 2;
constexpr std::size_t kSlab = kColumns * kDepth * 2;  // of the weight, 64 elements of k
constexpr std::size_t kShared = 1024 + kMaxDepths * kSlab + kStages * kPiece + 2 * kStages * sizeof(Arrival);

enum class Then { nothing, gelu, gelu_tanh };

template <class T>
struct ResidentArguments {
  const T* weight;
  const T* bias;  // null: none
  T* c;
  std::int64_t weight_row, c_row;
  std::int64_t rows;
  int columns;
  int depths;  // k / kDepth
  int slices;  // of kColumns
  int tiles;   // of kRows
};

template <Then kThen>
__device__ inline float then(float x) {
  if constexpr (kThen == Then::gelu) return gelu_near<GeluKind::exact>(x);
  if constexpr (kThen == Then::gelu_tanh) return gelu_near<GeluKind::tanh>(x);
  return x;
}

// The tile's rows of c, in a group's accumulators, go to memory.
template <class T, Then kThen>
__device__ inline void finish(const ResidentArguments<T>& in, const float (&sums)[96], int tile, int first_column) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) % 128 / 32;
  const std::int64_t first_row = static_cast<std::int64_t>(tile) * kRows + 16 * warp + lane / 4;
#pragma unroll
  for (int part = 0; part < kColumns / 32; ++part) {
    const int column = first_column + 32 * part + 8 * (lane % 4);
    if (column >= in.columns) continue;
    const Elements<T> bias = unpack<T>(in.bias != nullptr ? *as_packs(in.bias + column) : uint4{});
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const std::int64_t row = first_row + 8 * h;
      if (row >= in.rows) continue;
      Elements<T> result;
#pragma unroll
      for (int e = 0; e < 8; ++e) result[e] = then<kThen>(sums[4 * (4 * part + e / 2) + 2 * h + e % 2] + bias[e]);
      *as_packs(in.c + row * in.c_row + column) = pack<T>(result);
    }
  }
}

template <class T, Then kThen>
__global__ void __launch_bounds__(kThreads, 1)
    resident_kernel(const __grid_constant__ CUtensorMap a, const ResidentArguments<T> in) {
  extern __shared__ __align__(1024) unsigned char memory[];
  const std::uint32_t start = (shared_address(memory) + 1023) & ~1023U;
  unsigned char* const weight = memory + (start - shared_address(memory));
  unsigned char* const ring = weight + kMaxDepths * kSlab;
  auto* const full = reinterpret_cast<Arrival*>(ring + kStages * kPiece);
  auto* const empty = full + kStages;
  const int thread = static_cast<int>(threadIdx.x);
  const int slice = static_cast<int>(blockIdx.x) % in.slices;
  const int first_tile = static_cast<int>(blockIdx.x) / in.slices;
  const int step = static_cast<int>(gridDim.x) / in.slices;
  const int first_column = slice * kColumns;
  if (thread == 0) {
    for (int s = 0; s < kStages; ++s) {
      arrival_init(empty + s, 4);  // a group's warps
      arrival_init(full + s);
    }
  }
  wait_for_previous();
  allow_next();
  const int chunks = in.depths * kDepth / 8;  // of 16 bytes in a row of the weight
  for (int i = thread; i < kColumns * chunks; i += kThreads) {
    const int row = i / chunks;
    const int chunk = i % chunks;
    const int from = first_column + row / 32 * 32 + fragment_row(row % 32);
    const uint4 value =
        from < in.columns ? *reinterpret_cast<const uint4*>(in.weight + from * in.weight_row + 8 * chunk) : uint4{};
    *reinterpret_cast<uint4*>(weight + chunk / 8 * kSlab + row * 128 + ((chunk ^ row) & 7) * 16) = value;
  }
  show_to_products();
  __syncthreads();

  const int group = thread / 128;
  if (group == kGroups) {
    give_registers<kFetchRegisters>();
    // A thread for each group: no group's pieces wait behind another's, and each ring is walked by one reader, which
    // never waits for a phase before it has seen the one ahead of it.
    const int served = thread % 128 / 32;
    if (thread % 32 != 0 || served >= kGroups) return;
    int piece = 0;
    for (int turn = served; first_tile + turn * step < in.tiles; turn += kGroups) {
      const int tile = first_tile + turn * step;
      for (int depth = 0; depth < in.depths; ++depth, ++piece) {
        const int stage = served * kRing + piece % kRing;
        arrival_wait(empty + stage, static_cast<unsigned>(piece / kRing + 1) & 1U);  // at once in the first round
        arrival_expect(full + stage, kPiece);
        load_box(shared_address(ring + stage * kPiece), a, depth * kDepth, tile * kRows, full + stage);
      }
    }
    return;
  }

  take_registers<kRegisters>();
  float sums[96];
  const std::uint64_t b = tile_descriptor(shared_address(weight));
  int piece = 0;
  const auto stage_of = [group](int number) { return group * kRing + number % kRing; };
  for (int turn = group; first_tile + turn * step < in.tiles; turn += kGroups) {
    settle(sums);
    for (int depth = 0; depth < in.depths; ++depth, ++piece) {
      const int stage = stage_of(piece);
      arrival_wait(full + stage, static_cast<unsigned>(piece / kRing) & 1U);
      const std::uint64_t from_a = tile_descriptor(shared_address(ring + stage * kPiece));
      const std::uint64_t from_b = b + static_cast<std::uint64_t>(depth) * (kSlab >> 4);
      begin_products();
#pragma unroll
      for (int k = 0; k < kDepth / 16; ++k) {
        multiply_add_wide<T, kColumns, Right::along_k>(sums, from_a + 2 * k, from_b + 2 * k, depth > 0 || k > 0);
      }
      close_products();
      if (depth > 0) {
        wait_products<1>();
        if (thread % 32 == 0) arrive(empty + stage_of(piece - 1));
      }
    }
    wait_products<0>();
    settle(sums);
    if (thread % 32 == 0) arrive(empty + stage_of(piece - 1));
    finish<T, kThen>(in, sums, first_tile + turn * step, first_column);
  }
}

template <class T>
void run(const Tensor& a, const Tensor& weight, const Tensor& c, const Tensor& bias, std::optional<GeluKind> gelu) {
  const int slices = static_cast<int>((weight.size(0) + kColumns - 1) / kColumns);
  const int tiles = static_cast<int>((a.size(0) + kRows - 1) / kRows);
  const ResidentArguments<T> in{.weight = pointer<const T>(weight),
                                .bias = pointer<const T>(bias),
                                .c = pointer<T>(c),
                                .weight_row = weight.stride(0),
                                .c_row = c.stride(0),
                                .rows = a.size(0),
                                .columns = static_cast<int>(weight.size(0)),
                                .depths = static_cast<int>(a.size(1)) / kDepth,
                                .slices = slices,
                                .tiles = tiles};
  const int blocks = info(a.device().index).multiprocessors / slices;  // for each slice
  const unsigned grid = static_cast<unsigned>(slices * (blocks < tiles ? blocks : tiles));
  const Launch how = {.grid = dim3(grid), .block = dim3(kThreads), .shared = kShared, .overlap = true};
  const double moved = static_cast<double>(a.numel() + weight.numel() + c.numel()) * sizeof(T);
  const Work work{.name = gelu ? "gemm, gelu" : "gemm",
                  .bytes = moved,
                  .flops = 2.0 * static_cast<double>(c.numel()) * static_cast<double>(a.size(1)),
                  .m = a.size(0),
                  .n = weight.size(0),
                  .k = a.size(1)};
  const CUtensorMap boxes = boxes_of(a, kRows, kDepth);
  if (!gelu) {
    launch(work, resident_kernel<T, Then::nothing>, how, boxes, in);
  } else if (*gelu == GeluKind::exact) {
    launch(work, resident_kernel<T, Then::gelu>, how, boxes, in);
  } else {
    launch(work, resident_kernel<T, Then::gelu_tanh>, how, boxes, in);
  }
}

}  // namespace

bool gemm_resident(const Tensor& a, const Tensor& weight, const Tensor& c, const Tensor& bias,
                   std::optional<GeluKind> gelu) {
#ifdef WICK_SM_90A
  if ((a.dtype() != DType::bf16 && a.dtype() != DType::f16) || c.dtype() != a.dtype()) return false;
  const std::int64_t m = a.size(0);
  const std::int64_t n = weight.size(0);
  const std::int64_t k = a.size(1);
  if (m == 0 || k == 0 || k % kDepth != 0 || k > kMaxDepths * kDepth) return false;
  const std::int64_t slices = (n + kColumns - 1) / kColumns;
  if (n % 8 != 0 || 4 * n < 3 * slices * kColumns) return false;  // most of a block's columns have to be there
  if (a.stride(1) != 1 || weight.stride(1) != 1 || c.stride(1) != 1 || a.stride(0) < k) return false;
  if (!packs(a) || !packs(weight) || !packs(c)) return false;
  if (bias.defined() && (bias.stride(0) != 1 || !packs(bias))) return false;
  const DeviceInfo& device = info(a.device().index);
  if (device.major != 9 || slices > device.multiprocessors || m > std::int64_t{1} << 31) return false;
  if (a.dtype() == DType::bf16) {
    run<__nv_bfloat16>(a, weight, c, bias, gelu);
  } else {
    run<__half>(a, weight, c, bias, gelu);
  }
  return true;
#else
  return false;
#endif
}

}  // namespace wick::cuda
