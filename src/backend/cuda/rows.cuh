#pragma once

// What the ops on rows (norms, softmax) share: a row in the registers of a team of threads. See row_plan.h.

#include <algorithm>
#include <type_traits>

#include "backend/cuda/cluster.cuh"
#include "backend/cuda/kernels.cuh"
#include "backend/cuda/ptx.cuh"
#include "backend/cuda/row_plan.h"

namespace wick::cuda {

/// A matrix with dense columns.
template <class T>
struct Rows {
  T* data;
  std::int64_t stride;

  __device__ T* operator[](std::int64_t row) const { return data + row * stride; }
};
/// Null when t is undefined.
template <class T>
Rows<T> rows_of(const Tensor& t) {
  return {pointer<T>(t), t.defined() ? t.stride(0) : 0};
}

inline double bytes_of(const Tensor& t) {
  return static_cast<double>(t.numel()) * static_cast<double>(size_of(t.dtype()));
}

/// What a kernel is told of the rows.
struct RowShape {
  std::int64_t rows;
  std::int64_t length;  ///< of a row, in accesses: packs, or single elements
  float inverse;        ///< 1 / elements of a row
  int part;             ///< packs of a row in each block
  unsigned cluster;
  bool staged;
  std::uint32_t zero = 0, other_zero = 0;  ///< see stay_packed()
};

// ---------------------------------------------------------------------------------------------------------------------
// Teams

__device__ inline float shuffle_xor(float value, unsigned mask) { return __shfl_xor_sync(0xffffffffU, value, mask); }
__device__ inline float2 shuffle_xor(float2 value, unsigned mask) {
  return {shuffle_xor(value.x, mask), shuffle_xor(value.y, mask)};
}

/// The threads that share a row: blockDim.x of them in each block, of which a warp team has blockDim.y.
template <Span kSpan>
class Team {
 public:
  __device__ explicit Team(const RowShape& shape) {
    if constexpr (kSpan == Span::cluster) {
      blocks_ = shape.cluster;
      rank_ = blockIdx.x % blocks_;
      cluster_arrive();  // that all its blocks have begun is waited for before the first exchange
    }
  }

  /// A thread has every blockDim.x-th of its block's packs. Which pack of the row is its first, and how many there are
  /// from there to the end of the block's.
  __device__ int first(const RowShape& shape) const {
    return static_cast<int>(threadIdx.x) + (kSpan == Span::cluster ? static_cast<int>(rank_) * shape.part : 0);
  }
  __device__ int left(const RowShape& shape) const {
    const int in_row = static_cast<int>(shape.length) - first(shape);
    return kSpan == Span::cluster ? ::min(shape.part - static_cast<int>(threadIdx.x), in_row) : in_row;
  }
  /// True in the one thread that writes what is one for a row.
  __device__ bool leads() const { return threadIdx.x == 0 && rank_ == 0; }

  /// fn(row, left) for the team's rows; its threads go together. Warp teams behind the last row have nothing left.
  template <class Fn>
  __device__ void each_row(const RowShape& shape, Fn&& fn) const {
    if constexpr (kSpan == Span::cluster) {
      for (std::int64_t row = blockIdx.x / blocks_; row < shape.rows; row += gridDim.x / blocks_) fn(row, left(shape));
    } else if constexpr (kSpan == Span::block) {
      fn(static_cast<std::int64_t>(blockIdx.x), left(shape));
    } else {
      const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
      fn(row, row < shape.rows ? left(shape) : 0);
    }
  }

  /// Shared memory that reductions leave alone.
  __device__ uint4* spare() const { return reinterpret_cast<uint4*>(dynamic_shared()) + slots(); }

  /// The combination of all threads' values, in every thread, in an order that only the team's size decides.
  template <class Value, class Combine>
  __device__ Value reduce(Value value, Value neutral, Combine combine) {
#pragma unroll
    for (unsigned mask = 16; mask > 0; mask /= 2) {
      if (kSpan != Span::warp || mask < blockDim.x) value = combine(value, shuffle_xor(value, mask));
    }
    if constexpr (kSpan != Span::warp) {
      const unsigned count = slots();
      const unsigned warp = threadIdx.x / 32;
      const unsigned lane = threadIdx.x % 32;
      // Two sets of slots in turn: nobody writes to one before everybody has read what it held.
      Value* slot = reinterpret_cast<Value*>(dynamic_shared() + (turn_ ? count * sizeof(float2) : 0));
      turn_ = !turn_;
      if constexpr (kSpan == Span::block) {
        if (lane == 0) slot[warp] = value;
        __syncthreads();
      } else {
        if (!met_) cluster_wait();
        met_ = true;
        if (lane < blocks_) *in_block(slot + rank_ * (blockDim.x / 32) + warp, lane) = value;
        cluster_sync();
      }
      value = lane < count ? slot[lane] : neutral;
      if constexpr (kSpan == Span::cluster) {
        for (unsigned i = lane + 32; i < count; i += 32) value = combine(value, slot[i]);
      }
#pragma unroll
      for (unsigned mask = 16; mask > 0; mask /= 2) value = combine(value, shuffle_xor(value, mask));
    }
    return value;
  }

  __device__ float sum(float value) {
    return reduce(value, 0.0F, [](float a, float b) { return a + b; });
  }
  __device__ float2 sum(float2 value) {
    return reduce(value, float2{0, 0}, [](float2 a, float2 b) { return float2{a.x + b.x, a.y + b.y}; });
  }

 private:
  __device__ unsigned slots() const { return blockDim.x / 32 * blocks_; }

  unsigned blocks_ = 1;
  unsigned rank_ = 0;
  bool turn_ = false;
  bool met_ = false;
};

// ---------------------------------------------------------------------------------------------------------------------
// Packs

template <class T>
inline constexpr int kPackSize = 16 / static_cast<int>(sizeof(T));

template <class T>
__device__ inline uint4* as_packs(T* p) {
  return reinterpret_cast<uint4*>(p);
}
template <class T>
__device__ inline const uint4* as_packs(const T* p) {
  return reinterpret_cast<const uint4*>(p);
}

/// The elements of a pack of T.
template <class T>
struct Elements {
  static constexpr int kSize = kPackSize<T>;
  float values[kSize];

  __device__ float& operator[](int i) { return values[i]; }
  __device__ float operator[](int i) const { return values[i]; }
};

template <class T>
__device__ inline Elements<T> unpack(const uint4& pack) {
  const std::uint32_t words[4] = {pack.x, pack.y, pack.z, pack.w};
  Elements<T> to;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if constexpr (std::is_same_v<T, float>) {
      to[i] = __uint_as_float(words[i]);
    } else if constexpr (std::is_same_v<T, __nv_bfloat16>) {
      to[2 * i] = __uint_as_float(words[i] << 16);
      to[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000U);
    } else {
      const float2 pair = __half22float2(*reinterpret_cast<const __half2*>(&words[i]));
      to[2 * i] = pair.x;
      to[2 * i + 1] = pair.y;
    }
  }
  return to;
}
template <class T>
__device__ inline uint4 pack(const Elements<T>& from) {
  std::uint32_t words[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if constexpr (std::is_same_v<T, float>) {
      words[i] = __float_as_uint(from[i]);
    } else if constexpr (std::is_same_v<T, __nv_bfloat16>) {
      const __nv_bfloat162 pair = __floats2bfloat162_rn(from[2 * i], from[2 * i + 1]);
      words[i] = *reinterpret_cast<const std::uint32_t*>(&pair);
    } else {
      const __half2 pair = __floats2half2_rn(from[2 * i], from[2 * i + 1]);
      words[i] = *reinterpret_cast<const std::uint32_t*>(&pair);
    }
  }
  return {words[0], words[1], words[2], words[3]};
}

/// How far a thread's pack p lies behind its first.
__device__ inline int pack_offset(int p) { return p * static_cast<int>(blockDim.x); }

/// A thread's packs of a row, from its first on; `otherwise` where none are left.
template <int kPacks>
__device__ inline void load_row(uint4 (&packs)[kPacks], const uint4* first, int left, std::uint32_t otherwise = 0) {
#pragma unroll
  for (int p = 0; p < kPacks; ++p) packs[p] = load_once(first + pack_offset(p), pack_offset(p) < left, otherwise);
}
__device__ inline void store_pack(uint4* first, int p, int left, const uint4& pack) {
  store_if(first + pack_offset(p), pack, pack_offset(p) < left);
}

/// Has the compiler unpack the elements again where they are used next: keeping them takes twice the registers. It
/// cannot know that `zero` is 0, and for a second time needs another one.
template <class T, int kPacks>
__device__ inline void stay_packed(uint4 (&packs)[kPacks], std::uint32_t zero) {
  if constexpr (sizeof(T) < sizeof(float)) {
#pragma unroll
    for (uint4& p : packs) p = {p.x ^ zero, p.y ^ zero, p.z ^ zero, p.w ^ zero};
  }
}

/// A thread's packs of a weight vector. Every row reads them again, from L1 or shared memory, so they are not worth a
/// register each: a thread has two of them at a time. Only in short rows and few rows, where latency shows, it has all.
template <Span kSpan, int kPacks>
inline constexpr int kGroup = kPacks == 2 || (kSpan == Span::warp && kPacks == 4) ? kPacks : 2;

template <int kSize>
__device__ inline void load_weights(uint4 (&group)[kSize], const uint4* first, int p, int left) {
#pragma unroll
  for (int j = 0; j < kSize; ++j) {
    group[j] = pack_offset(p + j) < left ? first[pack_offset(p + j)] : uint4{};
  }
}

/// Brings the weights' lines nearer while the kernel before is still running.
template <int kPacks>
__device__ inline void prefetch_weights(const uint4* first, int left) {
  if (threadIdx.x % 8 != 0) return;
#pragma unroll
  for (int p = 0; p < kPacks; ++p) {
    if (pack_offset(p) < left) prefetch(first + pack_offset(p));
  }
}

/// A copy of a thread's weights in shared memory, where its block's begin at `to`.
__device__ inline const uint4* stage(const uint4* first, int left, uint4* to) {
  to += threadIdx.x;
  for (int i = 0; i < left; i += static_cast<int>(blockDim.x)) to[i] = first[i];
  return to;
}

// ---------------------------------------------------------------------------------------------------------------------
// Launches

/// The blocks that launch bounds ask for, from the registers that a thread needs; a multiprocessor has 65536 of them.
/// The rows that they hold are what is on its way from memory at the same time.
template <Span kSpan, int kThreads, int kInWarp, int kInBlock, int kInCluster>
inline constexpr int kMinBlocks = std::max(1, 65536 / (kThreads * (kSpan == Span::warp    ? kInWarp
                                                                   : kSpan == Span::block ? kInBlock
                                                                                          : kInCluster)));

/// One of an op's kernels: the span of a row, its packs in a thread, and the largest block.
template <Span kSpan, int kPacks, int kThreads>
struct RowKernel {
  static constexpr Span span = kSpan;
  static constexpr int packs = kPacks;
  static constexpr int threads = kThreads;
};

/// Calls fn(RowKernel{}) for the kernel of the plan.
template <const RowKernels& kKernels, class Fn>
void visit_plan(const RowPlan& plan, Fn&& fn) {
  if (plan.span == Span::cluster) {
    fn(RowKernel<Span::cluster, kKernels.wide, kKernels.wide_threads>{});
  } else if (plan.span == Span::warp && plan.packs == kKernels.brief) {
    fn(RowKernel<Span::warp, kKernels.brief, kKernels.brief_threads>{});
  } else if (plan.span == Span::warp) {
    if constexpr (kKernels.brief_2 != 0) fn(RowKernel<Span::warp, kKernels.brief_2, kKernels.brief_threads>{});
  } else if (plan.packs == kKernels.many) {
    fn(RowKernel<Span::block, kKernels.many, kKernels.many_threads>{});
  } else {
    if constexpr (kKernels.few != 0) fn(RowKernel<Span::block, kKernels.few, kKernels.few_threads>{});
  }
}

/// One call of an op on rows.
struct RowCall {
  Work work;
  std::int64_t rows, columns;
  bool packed;  ///< every row and vector starts on 16 bytes
  int vectors;  ///< weight and bias, as far as there are any
  int device;
};

/// Launches the kernel for the call's rows, whose last parameter is their shape: pick(RowKernel) for rows that fit into
/// registers, else loop(std::integral_constant<int, size>), which reads them more than once in accesses of that size.
template <class T, const RowKernels& kKernels, class Pick, class Loop, class... Arguments>
void run_rows(const RowCall& call, Pick&& pick, Loop&& loop, Arguments... arguments) {
  constexpr int kSize = kPackSize<T>;
  const bool packed = call.packed && call.columns % kSize == 0;
  const std::int64_t length = packed ? call.columns / kSize : call.columns;
  RowShape shape = {.rows = call.rows,
                    .length = length,
                    .inverse = 1.0F / static_cast<float>(call.columns),
                    .part = 0,
                    .cluster = 1,
                    .staged = false};
  const RowPlan plan = packed ? plan_rows(call.rows, length, kKernels, info(call.device)) : RowPlan{};
  if (plan.packs != 0) {
    visit_plan<kKernels>(plan, [&](auto choice) {
      auto* kernel = pick(choice);
      const RowGrid grid = grid_rows(plan, call.rows, length, call.vectors, reinterpret_cast<const void*>(kernel));
      shape.part = grid.part;
      shape.cluster = plan.cluster;
      shape.staged = grid.staged;
      launch(call.work, kernel,
             {.grid = dim3(grid.blocks),
              .block = dim3(plan.team, plan.teams),
              .shared = grid.shared,
              .overlap = true,
              .cluster = plan.cluster},
             arguments..., shape);
    });
    return;
  }
  const RowPlan walk = plan_loop(length);
  const Launch how = {
      .grid = dim3(blocks_for(call.rows, 1)), .block = dim3(walk.team), .shared = team_scratch(walk), .overlap = true};
  if (packed) {
    launch(call.work, loop(std::integral_constant<int, kSize>{}), how, arguments..., shape);
  } else {
    launch(call.work, loop(std::integral_constant<int, 1>{}), how, arguments..., shape);
  }
}

}  // namespace wick::cuda
