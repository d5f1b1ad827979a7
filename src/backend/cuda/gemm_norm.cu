// A block has 128 rows of the result, in the registers of two groups of four warps. Two blocks of a cluster share the
// weight, of which each fetches a half for both; a third group of each block fetches.

#include "backend/cuda/gemm_norm.h"

#include "backend/cuda/arrival.cuh"
#include "backend/cuda/cluster.cuh"
#include "backend/cuda/kernels.cuh"
#include "backend/cuda/rows.cuh"
#include "backend/cuda/tensor_map.h"
#include "backend/cuda/warp_group_wide.cuh"

namespace wick::cuda {
namespace {

constexpr int kGroups = 2;
constexpr int kRows = 64 * kGroups;
constexpr int kHalf = 192;  // columns of one product
constexpr int kColumns = 2 * kHalf;
constexpr int kDepth = 64;  // elements of k in 128 bytes
constexpr int kStages = 3;
constexpr int kThreads = (kGroups + 1) * 128;
constexpr int kFetchRegisters = 24;
constexpr int kRegisters = 240;
constexpr unsigned kCluster = 2;
constexpr std::size_t kPieceA = kRows * kDepth * 2;
constexpr std::size_t kPieceB = kHalf * kDepth * 2;  // a half
constexpr std::size_t kStage = kPieceA + 2 * kPieceB;
constexpr std::size_t kShared = 1024 + kStages * kStage + 2 * kStages * sizeof(Arrival);

template <class T>
struct NormArguments {
  const T* bias;  // null: none
  const T* residual;
  const T* weight;
  const T* shift;  // null: none
  T* y;
  std::int64_t residual_row, y_row;
  std::int64_t rows;
  int columns;
  int depths;  // k / kDepth
  int pairs;   // of tiles of kRows
  float eps;
};

// Lets both blocks fetch again.
__device__ inline void release(Arrival* empty) {
  if (threadIdx.x % 32 < kCluster) arrive_in(empty, threadIdx.x % 32);
}
// To the same place in both blocks; each counts the bytes.
__device__ inline void load_weight([[maybe_unused]] std::uint32_t to, [[maybe_unused]] const CUtensorMap& map,
                                   [[maybe_unused]] int column, [[maybe_unused]] int part,
                                   [[maybe_unused]] Arrival* arrival) {
#ifdef WICK_WARP_GROUPS
  asm volatile(
      "cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster "
      "[%0], [%1, {%2, %3, %3, %3, %4}], [%5], %6;" ::"r"(to),
      "l"(&map), "r"(column), "r"(0), "r"(part), "r"(shared_address(arrival)), "h"(static_cast<std::uint16_t>(3))
      : "memory");
#endif
}
__device__ inline void fetch_to_l2([[maybe_unused]] const void* from, [[maybe_unused]] std::uint32_t bytes) {
#ifdef WICK_WARP_GROUPS
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(__cvta_generic_to_global(from)), "r"(bytes)
               : "memory");
#endif
}

__device__ inline float over_row(float value) {  // the four lanes that share it
  value += __shfl_xor_sync(0xffffffffU, value, 1);
  return value + __shfl_xor_sync(0xffffffffU, value, 2);
}

// A part of 32 columns, of which a thread has 8 side by side in each of two rows.
constexpr int kParts = kHalf / 32;
__device__ inline float& element(float (&sums)[96], int part, int h, int e) {
  return sums[4 * (4 * part + e / 2) + 2 * h + e % 2];
}

// Eight elements, or zeros.
template <class T>
__device__ inline uint4 read(const T* from, bool there) {
  return there ? *as_packs(from) : uint4{};
}

// Bias and residual of one half of the columns: the products are added to them, so that they take no registers of their
// own.
template <class T>
__device__ inline void begin_half(const NormArguments<T>& in, float (&sums)[96], std::int64_t first_row,
                                  int first_column) {
#pragma unroll
  for (int part = 0; part < kParts; ++part) {
    const int column = first_column + 32 * part;
    const bool there = column < in.columns;
    const Elements<T> bias = unpack<T>(read(in.bias + column, there && in.bias != nullptr));
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const std::int64_t row = first_row + 8 * h;
      const Elements<T> residual =
          unpack<T>(read(in.residual + row * in.residual_row + column, there && row < in.rows));
#pragma unroll
      for (int e = 0; e < 8; ++e) element(sums, part, h, e) = bias[e] + residual[e];
    }
  }
}

// Columns that are not there are 0.
__device__ inline void add_up(float (&sums)[96], float (&totals)[2]) {
#pragma unroll
  for (int part = 0; part < kParts; ++part) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
#pragma unroll
      for (int e = 0; e < 8; ++e) totals[h] += element(sums, part, h, e);
    }
  }
}

// The sum of squares of deviations.
__device__ inline void add_squares(float (&sums)[96], int columns, int first_column, const float (&means)[2],
                                   float (&squares)[2]) {
#pragma unroll
  for (int part = 0; part < kParts; ++part) {
    if (first_column + 32 * part >= columns) continue;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
#pragma unroll
      for (int e = 0; e < 8; ++e) {
        const float deviation = element(sums, part, h, e) - means[h];
        squares[h] = fmaf(deviation, deviation, squares[h]);
      }
    }
  }
}

template <class T>
__device__ inline void store_half(const NormArguments<T>& in, float (&sums)[96], std::int64_t first_row,
                                  int first_column, const float (&means)[2], const float (&rstds)[2]) {
#pragma unroll
  for (int part = 0; part < kParts; ++part) {
    const int column = first_column + 32 * part;
    if (column >= in.columns) continue;
    asm volatile("" ::: "memory");  // loads of later parts would need registers that there are not
    const Elements<T> weight = unpack<T>(*as_packs(in.weight + column));
    const Elements<T> shift = unpack<T>(read(in.shift + column, in.shift != nullptr));
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const std::int64_t row = first_row + 8 * h;
      if (row >= in.rows) continue;
      Elements<T> normed;
#pragma unroll
      for (int e = 0; e < 8; ++e) {
        normed[e] = fmaf((element(sums, part, h, e) - means[h]) * rstds[h], weight[e], shift[e]);
      }
      *as_packs(in.y + row * in.y_row + column) = pack<T>(normed);
    }
  }
}

template <class T>
__device__ inline void finish(const NormArguments<T>& in, float (&left)[96], float (&right)[96], std::int64_t row,
                              int column) {
  const float inverse = 1.0F / static_cast<float>(in.columns);
  float totals[2] = {0.0F, 0.0F};
  add_up(left, totals);
  add_up(right, totals);
  const float means[2] = {over_row(totals[0]) * inverse, over_row(totals[1]) * inverse};
  float squares[2] = {0.0F, 0.0F};
  add_squares(left, in.columns, column, means, squares);
  add_squares(right, in.columns, column + kHalf, means, squares);
  const float rstds[2] = {rsqrtf(over_row(squares[0]) * inverse + in.eps),
                          rsqrtf(over_row(squares[1]) * inverse + in.eps)};
  store_half(in, left, row, column, means, rstds);
  store_half(in, right, row, column + kHalf, means, rstds);
}

template <class T>
__global__ void __launch_bounds__(kThreads, 1)
    norm_kernel(const __grid_constant__ CUtensorMap a, const __grid_constant__ CUtensorMap weight,
                const NormArguments<T> in) {
  extern __shared__ __align__(1024) unsigned char memory[];
  const std::uint32_t start = (shared_address(memory) + 1023) & ~1023U;
  auto* const full = reinterpret_cast<Arrival*>(memory + (start - shared_address(memory)) + kStages * kStage);
  auto* const empty = full + kStages;
  const int thread = static_cast<int>(threadIdx.x);
  const int rank = static_cast<int>(cluster_rank());
  const int first_pair = static_cast<int>(blockIdx.x / kCluster);
  const int step = static_cast<int>(gridDim.x / kCluster);
  if (thread == 0) {
    for (int s = 0; s < kStages; ++s) {
      arrival_init(empty + s, kCluster * kGroups * 4);  // the warps of both blocks
      arrival_init(full + s);
    }
  }
  show_to_products();
  wait_for_previous();
  allow_next();
  cluster_sync();  // nobody reaches into a block that is not ready

  if (thread / 128 == kGroups) {
    give_registers<kFetchRegisters>();
    if (thread % 128 == 0) {
      int piece = 0;
      for (int pair = first_pair; pair < in.pairs; pair += step) {
        const int row = (2 * pair + rank) * kRows;
        if (row < in.rows && in.residual_row == in.columns) {
          const int count = ::min(kRows, static_cast<int>(in.rows - row));
          fetch_to_l2(in.residual + row * in.residual_row, static_cast<std::uint32_t>(count * in.columns * 2));
        }
        for (int depth = 0; depth < in.depths; ++depth, ++piece) {
          const int stage = piece % kStages;
          const std::uint32_t to = start + stage * kStage;
          // At once in the first round.
          arrival_wait(empty + stage, static_cast<unsigned>(piece / kStages + 1) & 1U);
          arrival_expect(full + stage, kStage);
          load_box(to, a, depth * kDepth, row, full + stage);
          load_weight(to + kPieceA + rank * kPieceB, weight, depth * kDepth, rank * kParts, full + stage);
        }
      }
    }
  } else {
    take_registers<kRegisters>();
    const int group = thread / 128;
    const int own_row = thread / 32 * 16 + thread % 32 / 4;  // and the one 8 further down
    const int own_column = 8 * (thread % 4);                 // and 7 more, in each 32
    float left[96];
    float right[96];
    int piece = 0;
    for (int pair = first_pair; pair < in.pairs; pair += step) {
      const std::int64_t row = static_cast<std::int64_t>(2 * pair + rank) * kRows + own_row;
      begin_half(in, left, row, own_column);
      begin_half(in, right, row, own_column + kHalf);
      settle(left);
      settle(right);
      const auto multiply = [&] {
        const int stage = piece % kStages;
        const std::uint32_t from = start + stage * kStage;
        arrival_wait(full + stage, static_cast<unsigned>(piece / kStages) & 1U);
        const std::uint64_t rows = tile_descriptor(from + group * (kPieceA / kGroups));
        const std::uint64_t half = tile_descriptor(from + kPieceA);
        begin_products();
#pragma unroll
        for (int k = 0; k < kDepth / 16; ++k) {
          multiply_add_wide<T, kHalf, Right::along_k>(left, rows + 2 * k, half + 2 * k, true);
          multiply_add_wide<T, kHalf, Right::along_k>(right, rows + 2 * k, half + (kPieceB >> 4) + 2 * k, true);
        }
        close_products();
        ++piece;
      };
      multiply();
      for (int depth = 1; depth < in.depths; ++depth) {
        multiply();
        wait_products<1>();
        release(empty + (piece - 2) % kStages);
      }
      wait_products<0>();
      settle(left);
      settle(right);
      release(empty + (piece - 1) % kStages);
      finish(in, left, right, row, own_column);
    }
  }
  cluster_sync();  // nor into one that has ended
}

template <class T>
void run(const Tensor& a, const Tensor& weight, const NormAfter& after, const Tensor& y) {
  const int pairs = static_cast<int>((a.size(0) + 2 * kRows - 1) / (2 * kRows));
  const NormArguments<T> in{.bias = pointer<const T>(after.bias),
                            .residual = pointer<const T>(after.residual),
                            .weight = pointer<const T>(after.weight),
                            .shift = pointer<const T>(after.shift),
                            .y = pointer<T>(y),
                            .residual_row = after.residual.stride(0),
                            .y_row = y.stride(0),
                            .rows = a.size(0),
                            .columns = static_cast<int>(weight.size(0)),
                            .depths = static_cast<int>(a.size(1)) / kDepth,
                            .pairs = pairs,
                            .eps = after.eps};
  const int clusters = info(a.device().index).multiprocessors / static_cast<int>(kCluster);
  const auto grid = static_cast<unsigned>(clusters < pairs ? clusters : pairs) * kCluster;
  const double moved = static_cast<double>(a.numel() + weight.numel() + 2 * y.numel()) * sizeof(T);
  const Work work{.name = "gemm, residual, layer norm",
                  .bytes = moved,
                  .flops = 2.0 * static_cast<double>(y.numel()) * static_cast<double>(a.size(1)),
                  .m = a.size(0),
                  .n = weight.size(0),
                  .k = a.size(1)};
  launch(work, norm_kernel<T>,
         {.grid = dim3(grid), .block = dim3(kThreads), .shared = kShared, .overlap = true, .cluster = kCluster},
         boxes_of(a, kRows, kDepth), fragment_boxes_of(weight, kHalf, kDepth), in);
}

}  // namespace

bool gemm_norm(const Tensor& a, const Tensor& weight, const NormAfter& after, const Tensor& y) {
#ifdef WICK_SM_90A
  if ((a.dtype() != DType::bf16 && a.dtype() != DType::f16) || y.dtype() != a.dtype()) return false;
  const std::int64_t m = a.size(0);
  const std::int64_t n = weight.size(0);
  const std::int64_t k = a.size(1);
  if (m == 0 || k == 0 || k % kDepth != 0 || m > std::int64_t{1} << 30) return false;
  if (n % 32 != 0 || n > kColumns || 4 * n < 3 * kColumns) return false;  // most of the columns have to be there
  for (const Tensor* matrix : {&a, &weight, &after.residual, &y}) {
    if (matrix->stride(1) != 1 || matrix->stride(0) < matrix->size(1) || !packs(*matrix)) return false;
  }
  for (const Tensor* vector : {&after.bias, &after.weight, &after.shift}) {
    if (vector->defined() && (!vector->is_contiguous() || !packs(*vector))) return false;
  }
  if (info(a.device().index).major != 9 || largest_cluster() < kCluster) return false;
  if (a.dtype() == DType::bf16) {
    run<__nv_bfloat16>(a, weight, after, y);
  } else {
    run<__half>(a, weight, after, y);
  }
  return true;
#else
  return false;
#endif
}

}  // namespace wick::cuda
