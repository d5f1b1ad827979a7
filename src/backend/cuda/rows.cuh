#pragma once

// What the ops on rows (norms, softmax) share: a row in the registers of a team of threads. See row_plan.h.

#include <algorithm>
#include <type_traits>

#include "backend/cuda/arrival.cuh"
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

/// Heads [tokens, heads, n] as rows, fewer than 2^31: row r is head r % heads of token r / heads.
template <class T>
struct HeadRows {
  T* data;
  std::int64_t token_stride, head_stride;
  Divisor heads;

  __device__ T* operator[](std::int64_t row) const {
    const auto r = static_cast<std::uint32_t>(row);
    const std::uint32_t token = heads.divide(r);
    return data + token * token_stride + (r - token * heads.value()) * head_stride;
  }
};
/// Of heads, or of a matrix beside them.
template <class T>
HeadRows<T> head_rows_of(const Tensor& t, std::int64_t heads) {
  const bool matrix = t.rank() == 2;
  return {pointer<T>(t), matrix ? heads * t.stride(0) : t.stride(0), matrix ? t.stride(0) : t.stride(1),
          Divisor(static_cast<std::uint32_t>(heads))};
}

/// What it takes to unpack two elements, for a second or third time: see unpack(). The compiler does not know the
/// numbers.
struct Halves {
  std::uint32_t shift = 16, high = 0xffff0000U, zero = 0;
};

/// What a kernel is told of the rows.
struct RowShape {
  std::int64_t rows;
  std::int64_t length;  ///< of a row, in accesses: packs, or single elements
  float inverse;        ///< 1 / elements of a row
  int part;             ///< packs of a row in each block
  unsigned cluster;
  unsigned waiting;        ///< threads of a block that wait for the cluster, see Team::gather()
  L2Marks marks;           ///< of rows; weights have none
  std::uint32_t zero = 0;  ///< see stay_packed()
  Halves second = {}, third = {};
};

// ---------------------------------------------------------------------------------------------------------------------
// Teams

__device__ inline float shuffle_xor(float value, unsigned mask) { return __shfl_xor_sync(0xffffffffU, value, mask); }
__device__ inline float2 shuffle_xor(float2 value, unsigned mask) {
  return {shuffle_xor(value.x, mask), shuffle_xor(value.y, mask)};
}

/// A number of each row that a team holds side by side.
template <class Value, int kRows>
struct EachRow {
  Value values[kRows];

  __device__ Value& operator[](int row) { return values[row]; }
  __device__ const Value& operator[](int row) const { return values[row]; }
};
template <class Value, int kRows>
__device__ inline EachRow<Value, kRows> shuffle_xor(const EachRow<Value, kRows>& value, unsigned mask) {
  EachRow<Value, kRows> to;
#pragma unroll
  for (int r = 0; r < kRows; ++r) to[r] = shuffle_xor(value[r], mask);
  return to;
}

struct Plus {
  __device__ float operator()(float a, float b) const { return a + b; }
  __device__ float2 operator()(float2 a, float2 b) const { return {a.x + b.x, a.y + b.y}; }
  template <class Value, int kRows>
  __device__ EachRow<Value, kRows> operator()(EachRow<Value, kRows> a, const EachRow<Value, kRows>& b) const {
#pragma unroll
    for (int r = 0; r < kRows; ++r) a[r] = (*this)(a[r], b[r]);
    return a;
  }
};

/// A thread's packs of a row: every kStride-th from its first on, or every blockDim.x-th.
template <int kStride>
struct RowPart {
  static constexpr bool kWholeWarp = kStride == 32;
  int first;
  int left;  ///< packs of its block from the thread's first on, other threads' too; 0 and less: it has none
  L2Policy reads, writes;

  __device__ static int offset(int p) { return p * (kStride > 0 ? kStride : static_cast<int>(blockDim.x)); }
  __device__ bool has(int p) const { return offset(p) < left; }
  __device__ int count() const { return ::max(0, (left + offset(1) - 1) / offset(1)); }
};

/// The threads that share a row: blockDim.x of them in each block, of which a warp team has blockDim.y. `Exchanged`:
/// what a warp of a cluster brings to exchange(). kExpectsFirst: its blocks expect that before anyone sends it. The
/// hardware takes either order, but racecheck of compute-sanitizer waits for ever where something comes first.
template <Span kSpan, int kPacks = 0, class Exchanged = float, bool kExpectsFirst = true,
          int kStride = kSpan == Span::warp&& kPacks == 8 ? 32 : 0>
class Team {
 public:
  /// Rows of 8 packs in a thread are those that are too long for 4: they have whole warps.
  using Part = RowPart<kStride>;
  static constexpr bool kSeveralWarps = kSpan != Span::warp;

  __device__ explicit Team(const RowShape& shape) {
    if constexpr (kSpan == Span::cluster) {
      blocks_ = shape.cluster;
      rank_ = cluster_rank();
      waiting_ = shape.waiting;
      if (threadIdx.x == 0) {
        arrival_init(barrier());
        if constexpr (kExpectsFirst) arrival_expect(barrier(), warps() * sizeof(Exchanged));
      }
      cluster_arrive_first();
    }
  }

  /// Its row, where it has one at a time: warp teams may be behind the last one.
  __device__ std::int64_t row() const {
    if constexpr (kSpan == Span::cluster) return blockIdx.x / blocks_;
    if constexpr (kSpan == Span::block) return blockIdx.x;
    return static_cast<std::int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  }
  /// What the thread has of it: nothing behind the last one.
  __device__ Part part(const RowShape& shape) const {
    const auto thread = static_cast<int>(threadIdx.x);
    const int first = thread + static_cast<int>(rank_) * shape.part;
    int left = static_cast<int>(shape.length) - first;
    if constexpr (kSpan == Span::cluster) left = ::min(left, shape.part - thread);
    if (kSpan == Span::warp && row() >= shape.rows) left = 0;
    return {first, left, l2_policy(shape.marks.reads), l2_policy(shape.marks.writes)};
  }
  /// True in the one thread that writes what is one for a row.
  __device__ bool leads() const { return threadIdx.x == 0 && rank_ == 0; }

  /// Waits until all blocks of a cluster have begun: others may be sent to. It comes behind the row's loads, which go
  /// on meanwhile, and before those of weights, since it empties L1: one warp does so once. A cluster has two blocks or
  /// more, see cluster_wait().
  __device__ void gather() const {
    if constexpr (kSpan == Span::cluster) {
      if (threadIdx.x < waiting_) cluster_wait();
      __syncthreads();
    }
  }

  // All combinations are made in an order that only the team's size decides, and are the same in every thread.

  /// The combination of a warp's values, or of its part that has a row.
  template <class Value, class Combine>
  __device__ Value reduce_warp(Value value, Combine combine) const {
#pragma unroll
    for (unsigned mask = 16; mask > 0; mask /= 2) {
      if (kSpan != Span::warp || Part::kWholeWarp || mask < blockDim.x)
        value = combine(value, shuffle_xor(value, mask));
    }
    return value;
  }

  /// For teams of many warps: a value of each warp, the same in its threads. They stand until the next exchange. A
  /// cluster has only one: none of its blocks then ends before all others have sent what they send.
  template <class Value>
  __device__ const Value* exchange(const Value& value) {
    return exchange(EachRow<Value, 1>{{value}})->values;
  }
  template <class Value, int kRows>
  __device__ const EachRow<Value, kRows>* exchange(const EachRow<Value, kRows>& value) {
    static_assert(sizeof(Value) <= kTeamSlot);
    auto* values = reinterpret_cast<EachRow<Value, kRows>*>(dynamic_shared() + kTeamBarrier);
    const unsigned warp = threadIdx.x / 32;
    const unsigned lane = threadIdx.x % 32;
    if constexpr (kSpan == Span::block) {
      if (exchanges_++ > 0) __syncthreads();  // all have read the values before
      if (lane == 0) values[warp] = value;
      __syncthreads();
    } else {
      static_assert(sizeof value == sizeof(Exchanged));
      if (!kExpectsFirst && threadIdx.x == 0) arrival_expect(barrier(), warps() * sizeof value);
      if (lane < blocks_) {
        EachRow<Value, kRows>* const to = values + rank_ * (blockDim.x / 32) + warp;
#pragma unroll
        for (int r = 0; r < kRows; ++r) send_async(&to->values[r], value[r], barrier(), lane);
      }
      arrival_wait(barrier(), 0);
    }
    return values;
  }
  /// The combination of at(warp) over the team's warps.
  template <class Value, class At, class Combine>
  __device__ Value over_warps(Value neutral, At at, Combine combine) const {
    const unsigned lane = threadIdx.x % 32;
    Value value = lane < warps() ? at(lane) : neutral;
    if constexpr (kSpan == Span::cluster) {
#pragma unroll 1  // the row is in the registers
      for (unsigned warp = lane + 32; warp < warps(); warp += 32) value = combine(value, at(warp));
    }
    return reduce_warp(value, combine);
  }

  /// The combination of all threads' values.
  template <class Value, class Combine>
  __device__ Value reduce(Value value, Value neutral, Combine combine) {
    value = reduce_warp(value, combine);
    if constexpr (kSpan == Span::warp) {
      return value;
    } else {
      const Value* values = exchange(value);
      return over_warps(
          neutral, [values](unsigned warp) { return values[warp]; }, combine);
    }
  }
  template <class Value>
  __device__ Value sum(Value value) {
    return reduce(value, Value{}, Plus{});
  }

 private:
  __device__ unsigned warps() const { return blockDim.x / 32 * blocks_; }
  __device__ static Arrival* barrier() { return reinterpret_cast<Arrival*>(dynamic_shared()); }

  unsigned blocks_ = 1;
  unsigned rank_ = 0;
  unsigned waiting_ = 0;
  unsigned exchanges_ = 0;
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
/// The same again: kept from the first time, as the compiler would have it, the elements take twice the registers. It
/// takes no instruction more for bf16, and holds no second copy of packs, as stay_packed() may.
template <class T>
__device__ inline Elements<T> unpack(const uint4& pack, const Halves& again) {
  if constexpr (!std::is_same_v<T, __nv_bfloat16>) {
    const std::uint32_t zero = sizeof(T) < sizeof(float) ? again.zero : 0;
    return unpack<T>(uint4{pack.x ^ zero, pack.y ^ zero, pack.z ^ zero, pack.w ^ zero});
  } else {
    const std::uint32_t words[4] = {pack.x, pack.y, pack.z, pack.w};
    Elements<T> to;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      to[2 * i] = __uint_as_float(words[i] << again.shift);
      to[2 * i + 1] = __uint_as_float(words[i] & again.high);
    }
    return to;
  }
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

/// A thread's packs of a row; `otherwise` where there are none.
template <class T, int kPacks, class Part>
__device__ inline void load_row(uint4 (&packs)[kPacks], const T* row, Part part, std::uint32_t otherwise = 0) {
  const uint4* first = as_packs(row) + part.first;
#pragma unroll
  for (int p = 0; p < kPacks; ++p) packs[p] = load_once(first + part.offset(p), part.has(p), part.reads, otherwise);
}
template <class T, class Part>
__device__ inline void store_pack(T* row, int p, Part part, const uint4& pack) {
  store_if(as_packs(row) + part.first + part.offset(p), pack, part.has(p), part.writes);
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

/// A thread's packs of a weight vector, or as many of them as it has in registers at a time: see RowPlan::weights.
template <class T, int kSize, class Part>
__device__ inline void load_weights(uint4 (&group)[kSize], const T* weights, int p, Part part) {
  const uint4* first = as_packs(weights) + part.first;
#pragma unroll
  for (int j = 0; j < kSize; ++j) group[j] = part.has(p + j) ? first[part.offset(p + j)] : uint4{};
}

/// Keeps the compiler from moving reads and writes of memory to the other side.
__device__ inline void keep_order() { __syncwarp(); }

/// Brings the weights nearer while the kernel before is still running. One block does, for all: the same few lines
/// asked of L2 by every row take longer than the rows.
template <int kPacks, class T, class Part>
__device__ inline void prefetch_weights(const T* weights, Part part) {
  if (blockIdx.x != 0 || threadIdx.y != 0 || threadIdx.x % 8 != 0) return;
#pragma unroll
  for (int p = 0; p < kPacks; ++p) {
    if (part.has(p)) prefetch(as_packs(weights) + part.first + part.offset(p));
  }
}

}  // namespace wick::cuda
