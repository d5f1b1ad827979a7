// Products of few rows with weights that come through shared memory. A warp of each block fetches the block's rows by
// asynchronous copies, stage by stage; the others wait for the kernel ahead, take x, and multiply.
//
// Of a decoded token's layer reading the weights would take the third part of the time (Qwen2.5-0.5B on an H200: 30 MB,
// 7 us of 23): the rest is five times waiting for what came before, with memory idle. So weights come meanwhile. Two
// things decide how much that gives:
// - Blocks of the next kernels have to find room beside those that run. 9 warps of 56 registers are a quarter of the
//   registers, and gate+up (132 KB a multiprocessor, through a ring of 96), down (66 KB in 85), q, k, v (22) and o (18)
//   lie side by side in the 228 KB of shared memory.
// - What a kernel waits for must not queue behind what another fetches ahead. 4.2 TB/s over 132 multiprocessors at a
//   latency of 0.7 us are 22 KB under way in each; more only makes queues, so the warp that fetches waits for older
//   stages before it asks for new ones.
#include <algorithm>

#include "backend/cuda/arrival.cuh"
#include "backend/cuda/gemv_streamed.h"
#include "backend/cuda/mma.cuh"

namespace wick::cuda {
namespace {

constexpr int kMaxWarps = 16;
constexpr int kTile = 16;      // rows of the weight in a tensor core product
constexpr int kStep = 32;      // columns of x and the weight in two of them
constexpr int kPad = 32;       // elements behind a row in shared memory, so that two rows lie in 32 banks
constexpr int kMultiple = 64;  // columns of a slice
constexpr int kMaxSlots = 32;

// Columns of y that a tile serves: it has their rows of gate above those of up.
__host__ __device__ constexpr int columns_of(bool swiglu) { return swiglu ? kTile / 2 : kTile; }

// Where things lie in shared memory, in bytes; behind the stages, which lie at its beginning.
struct Places {
  int pitch;    // of a row of a stage
  int slot;     // of a stage
  int x_pitch;  // of a row of x
  int x, norm, sums, scratch, arrivals, end;
};

template <class T, class Y>
struct Streamed {
  const T *x, *weight, *bias;
  const T* norm;  // null: x as it is
  const Y* residual;
  Y* y;
  std::int64_t x_stride, weight_stride, residual_stride, y_stride;
  int m, n, k;       // n columns of y
  int warps;         // that multiply
  int slice;         // columns of a stage, at most
  int slices;        // of k
  int slot_columns;  // of y that a stage serves, at most
  int groups;        // of these columns in a block, at most
  int slots;         // stages in shared memory
  int ahead;         // stages under way
  Places places;
  float alpha, beta, eps;
};

template <class T, class Y>
Places places_of(const Streamed<T, Y>& p, bool swiglu) {
  Places at = {};
  at.pitch = (p.slice + kPad) * 2;
  at.slot = p.slot_columns * (swiglu ? 2 : 1) * at.pitch;
  at.x_pitch = ((p.k + kMultiple - 1) / kMultiple * kMultiple + kPad) * 2;
  at.x = p.slots * at.slot;
  at.norm = at.x + p.m * at.x_pitch;
  at.sums = at.norm + (p.norm != nullptr ? p.k * 2 : 0);
  at.scratch = at.sums + p.groups * p.warps * p.m * kTile * 4;
  at.arrivals = at.scratch + 2 * kMaxWarps * 4;
  at.end = at.arrivals + 2 * kMaxSlots * 8;
  return at;
}

// Of the threads that multiply.
__device__ inline void meet(int threads) { asm volatile("barrier.cta.sync 1, %0;" ::"r"(threads) : "memory"); }

template <class T>
__device__ inline Pack<T> load_past_l1(const T* from) {
  const uint4 words = __ldcg(reinterpret_cast<const uint4*>(from));
  return *reinterpret_cast<const Pack<T>*>(&words);
}

// A row of x to shared memory, normalised. A thread meets only what it wrote itself.
template <class T>
__device__ inline void take_normalised(const T* x, const T* norm, float eps, int k, int warps, T* to, float* scratch) {
  const int threads = warps * 32;
  const auto thread = static_cast<int>(threadIdx.x);
  const auto normalise = [&](Pack<T> pack, int c, float scale) {
    const Pack<T> w = load_pack(norm + c);
#pragma unroll
    for (int e = 0; e < 8; ++e) pack[e] = from_float<T>(to_float(pack[e]) * scale * to_float(w[e]));
    store_pack(to + c, pack);
  };
  Pack<T> first = {};  // most rows are no longer than one pack a thread
  float squares = 0;
  for (int c = thread * 8; c < k; c += threads * 8) {
    Pack<T> pack = load_past_l1(x + c);
#pragma unroll
    for (int e = 0; e < 8; ++e) squares = fmaf(to_float(pack[e]), to_float(pack[e]), squares);
    if (c == thread * 8) {
      first = pack;
    } else {
      store_pack(to + c, pack);
    }
  }
  squares = warp_sum(squares);
  if (thread % 32 == 0) scratch[thread / 32] = squares;
  meet(threads);
  squares = warp_sum(thread % 32 < warps ? scratch[thread % 32] : 0.0F);
  const float scale = rsqrtf(squares / static_cast<float>(k) + eps);
  if (thread * 8 < k) normalise(first, thread * 8, scale);
#pragma unroll 1
  for (int c = (thread + threads) * 8; c < k; c += threads * 8) normalise(load_pack(to + c), c, scale);
}

// Row and column of what is this thread's in a matrix, without divisions: most have one row.
struct Place {
  int row = 0;
  int column = static_cast<int>(threadIdx.x);

  __device__ explicit Place(int columns) { advance(0, columns); }
  __device__ void advance(int by, int columns) {
    for (column += by; column >= columns; column -= columns) ++row;
  }
};

template <class T>
__device__ inline void take(const T* x, std::int64_t stride, int m, int k, int threads, T* to, int pitch) {
  constexpr int kAtOnce = 4;
  const int packs = k / 8;
  Place at(packs);
#pragma unroll 1
  while (at.row < m) {
    Pack<T> held[kAtOnce];
    Place there = at;
#pragma unroll
    for (int u = 0; u < kAtOnce; ++u, there.advance(threads, packs)) {
      if (there.row < m) held[u] = load_past_l1(x + there.row * stride + there.column * 8);
    }
#pragma unroll
    for (int u = 0; u < kAtOnce; ++u, at.advance(threads, packs)) {
      if (at.row < m) store_pack(to + at.row * pitch + at.column * 8, held[u]);
    }
  }
}

template <class T, class Y, bool kSwiglu>
__global__ void __launch_bounds__((kMaxWarps + 1) * 32, 2) streamed_kernel(const __grid_constant__ Streamed<T, Y> p) {
  constexpr int kParts = kSwiglu ? 2 : 1;        // gate and up
  constexpr int kColumns = columns_of(kSwiglu);  // of y in a group, if the block has as many
  allow_next();
  const Places& places = p.places;
  std::byte* const shared = dynamic_shared();
  auto* const full = reinterpret_cast<Arrival*>(shared + places.arrivals);
  Arrival* const empty = full + kMaxSlots;
  const auto thread = static_cast<int>(threadIdx.x);
  const int lane = thread % 32;
  const int warp = thread / 32;
  // The block's columns of y, in groups of a stage each.
  const auto bound = [&](unsigned block) { return static_cast<int>(std::int64_t{p.n} * block / gridDim.x); };
  const int begin = bound(blockIdx.x);
  const int columns = bound(blockIdx.x + 1) - begin;
  const int groups = (columns + kColumns - 1) / kColumns;
  const int stages = groups * p.slices;

  if (thread < p.slots) {
    arrival_init(&full[thread]);
    arrival_init(&empty[thread], static_cast<unsigned>(p.warps));
  }
  __syncthreads();

  if (warp == p.warps) {
    const auto next = [&](int& slot, unsigned& parity) {
      if (++slot < p.slots) return;
      slot = 0;
      parity ^= 1U;
    };
    int slot = 0;
    int older = 0;  // the slot of the stage that has to have come before this one is asked for
    unsigned parity = 0;
    unsigned older_parity = 0;
    int stage = 0;
#pragma unroll 1
    for (int first = 0; first < columns; first += kColumns) {
      const int count = ::min(kColumns, columns - first);
      const int part = lane / kColumns;
      const int row = lane % kColumns;
      const T* const from = p.weight + (std::int64_t{part} * p.n + begin + first + row) * p.weight_stride;
      std::byte* const to = shared + (part * p.slot_columns + row) * places.pitch;
#pragma unroll 1
      for (int column = 0; column < p.k; column += p.slice, ++stage) {
        if (stage >= p.slots) arrival_wait(&empty[slot], parity ^ 1U);
        if (stage >= p.ahead) {
          arrival_wait(&full[older], older_parity);
          next(older, older_parity);
        }
        const auto bytes = static_cast<unsigned>(::min(p.slice, p.k - column) * 2);
        if (lane == 0) arrival_expect(&full[slot], static_cast<unsigned>(kParts * count) * bytes);
        __syncwarp();
        if (part < kParts && row < count) load_async(to + slot * places.slot, from + column, bytes, &full[slot]);
        next(slot, parity);
      }
    }
    return;
  }

  const int threads = p.warps * 32;
  T* const xs = reinterpret_cast<T*>(shared + places.x);
  T* const norm = reinterpret_cast<T*>(shared + places.norm);
  auto* const sums = reinterpret_cast<float*>(shared + places.sums);
  auto* const scratch = reinterpret_cast<float*>(shared + places.scratch);
  const int x_pitch = places.x_pitch / 2;
  if (p.norm != nullptr) {
    for (int c = thread * 8; c < p.k; c += threads * 8) store_pack(norm + c, load_pack(p.norm + c));
  }
  wait_for_previous();

  // What a result is added to, of this thread's first one ahead of its use.
  struct Added {
    Y residual = {};
    Y before = {};
    T bias[kParts] = {};
  };
  Place at(columns);
  const auto fetch = [&] {
    Added added;
    if (at.row >= p.m) return added;
    const int n = begin + at.column;
    if (p.residual != nullptr) added.residual = __ldcg(p.residual + at.row * p.residual_stride + n);
    if (p.beta != 0) added.before = __ldcg(p.y + at.row * p.y_stride + n);
    if (p.bias != nullptr) {
#pragma unroll
      for (int part = 0; part < kParts; ++part) added.bias[part] = __ldcg(p.bias + part * p.n + n);
    }
    return added;
  };
  if (p.norm != nullptr) {
#pragma unroll 1
    for (int r = 0; r < p.m; ++r) {
      take_normalised(p.x + r * p.x_stride, norm, p.eps, p.k, p.warps, xs + r * x_pitch, scratch + r % 2 * kMaxWarps);
    }
  } else {
    take(p.x, p.x_stride, p.m, p.k, threads, xs, x_pitch);
  }
  Added added = fetch();
  meet(threads);

  // Lane i has 8 columns, 8 (i % 4) and further of a step, of rows i / 4 of the weight and of x. Both sides of a
  // product take columns in the order in which they lie there.
  const int row = lane / 4;
  const int first_column = warp * kStep + lane % 4 * 8;
  const int rows = kParts * p.slot_columns;
  const bool lower_rows = kSwiglu || rows > kTile / 2;  // of the tile: up, or the columns behind the first 8
  // Rows beyond those of the group hold anything; they only make sums that nobody reads.
  const int upper = ::min(row, rows - 1) * places.pitch + first_column * 2;
  const int lower = ::min(row + (kSwiglu ? p.slot_columns : kTile / 2), rows - 1) * places.pitch + first_column * 2;
  const T* const of_x = xs + row * x_pitch + first_column;
  int slot = 0;
  unsigned parity = 0;
  int left = stages;
#pragma unroll 1
  for (int group = 0; group < groups; ++group) {
    float products[2][4] = {};
#pragma unroll 1
    for (int column = 0; column < p.k; column += p.slice) {
      const std::byte* const stage = shared + slot * places.slot;
      const int width = ::min(p.slice, p.k - column);
      arrival_wait(&full[slot], parity);
#pragma unroll 1
      for (int c = 0; c + warp * kStep < width; c += 2 * p.warps * kStep) {
#pragma unroll
        for (int u = 0; u < 2; ++u) {
          const int at = c + u * p.warps * kStep;
          const bool valid = first_column + at < width;
          uint4 a = {0, 0, 0, 0};
          uint4 b = {0, 0, 0, 0};
          uint4 x = {0, 0, 0, 0};
          if (valid) a = *reinterpret_cast<const uint4*>(stage + upper + at * 2);
          if (valid && lower_rows) b = *reinterpret_cast<const uint4*>(stage + lower + at * 2);
          if (valid && row < p.m) x = *reinterpret_cast<const uint4*>(of_x + column + at);
          multiply_add<T>(products[u], {a.x, b.x, a.y, b.y}, x.x, x.y);
          multiply_add<T>(products[u], {a.z, b.z, a.w, b.w}, x.z, x.w);
        }
      }
      if (left-- > p.slots) {  // somebody waits for the place
        __syncwarp();
        if (lane == 0) arrive(&empty[slot]);
      }
      if (++slot == p.slots) {
        slot = 0;
        parity ^= 1U;
      }
    }
    float* const to = sums + (group * p.warps + warp) * p.m * kTile;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int token = lane % 4 * 2 + i % 2;
      if (token < p.m) to[token * kTile + row + i / 2 * (kTile / 2)] = products[0][i] + products[1][i];
    }
  }
  meet(threads);

#pragma unroll 1
  for (bool first = true; at.row < p.m; at.advance(threads, columns), first = false) {
    if (!first) added = fetch();
    const float* const from = sums + (at.column / kColumns * p.warps * p.m + at.row) * kTile + at.column % kColumns;
    float total[kParts] = {};
    for (int w = 0; w < p.warps; ++w) {
#pragma unroll
      for (int part = 0; part < kParts; ++part) total[part] += from[w * p.m * kTile + part * (kTile / 2)];
    }
    float value = p.alpha * total[0] + to_float(added.bias[0]);
    if constexpr (kSwiglu) {
      const float up = p.alpha * total[kParts - 1] + to_float(added.bias[kParts - 1]);
      value = value / (1 + __expf(-value)) * up;
    }
    value += to_float(added.residual);
    if (p.beta != 0) value += p.beta * to_float(added.before);
    p.y[at.row * p.y_stride + begin + at.column] = from_float<Y>(value);
  }
}

// How the work is divided; false if it does not fit.
template <class T, class Y>
bool divide(Streamed<T, Y>& p, const GemvPlan& plan, bool swiglu, const DeviceInfo& device, int& blocks) {
  const int room = device.multiprocessors * plan.blocks;
  const int columns = (p.n + room - 1) / room;
  if (columns > kGemvStreamedColumns) return false;
  blocks = (p.n + columns - 1) / columns;
  p.warps = plan.warps;
  p.slot_columns = std::min(columns, columns_of(swiglu));
  // Slices of one length, nearly.
  const int most = plan.stage * 1024 / 2 / (p.slot_columns * (swiglu ? 2 : 1)) / kMultiple * kMultiple;
  const int slices = (p.k - 1) / std::max(most, kMultiple) + 1;
  p.slice = ((p.k - 1) / slices / kMultiple + 1) * kMultiple;
  p.slices = (p.k - 1) / p.slice + 1;
  p.groups = (columns + p.slot_columns - 1) / p.slot_columns;
  p.slots = 0;
  const Places none = places_of(p, swiglu);
  const int room_for_stages =
      std::min(plan.ring * 1024, static_cast<int>(device.shared_bytes) / plan.blocks - none.end);
  p.slots = std::min({std::max(room_for_stages / none.slot, 2), p.groups * p.slices, kMaxSlots});
  p.ahead = std::clamp((plan.in_flight * 1024 + none.slot / 2) / none.slot, 1, p.slots);
  p.places = places_of(p, swiglu);
  return p.places.end <= static_cast<int>(device.shared_bytes);
}

template <class T, class Y, bool kSwiglu>
bool run(Streamed<T, Y> p, const GemvPlan& plan, const DeviceInfo& device) {
  int blocks = 0;
  if (!divide(p, plan, kSwiglu, device, blocks)) return false;
  const double weights = static_cast<double>(p.n) * p.k * (kSwiglu ? 2 : 1);
  launch({"gemv", weights * sizeof(T) + static_cast<double>(p.m) * (p.k * sizeof(T) + p.n * sizeof(Y)),
          2 * weights * p.m, p.m, p.n, p.k},
         streamed_kernel<T, Y, kSwiglu>,
         {.grid = dim3(static_cast<unsigned>(blocks)),
          .block = dim3(static_cast<unsigned>((p.warps + 1) * 32)),
          .shared = static_cast<std::size_t>(p.places.end),
          .overlap = true,
          .most_shared = true},
         p);
  return true;
}

template <class T, class Y>
bool run(const Tensor& x, const Tensor& weight, const Tensor& y, float alpha, float beta, const GemvOptions& options,
         const GemvPlan& plan) {
  Streamed<T, Y> p = {};
  p.x = pointer<T>(x);
  p.weight = pointer<T>(weight);
  p.bias = pointer<T>(options.bias);
  p.norm = pointer<T>(options.norm);
  p.residual = pointer<Y>(options.residual);
  p.y = pointer<Y>(y);
  p.x_stride = x.stride(0);
  p.weight_stride = weight.stride(0);
  p.residual_stride = options.residual.defined() ? options.residual.stride(0) : 0;
  p.y_stride = y.stride(0);
  p.m = static_cast<int>(x.size(0));
  p.n = static_cast<int>(y.size(1));
  p.k = static_cast<int>(x.size(1));
  p.alpha = alpha;
  p.beta = beta;
  p.eps = options.eps;
  const DeviceInfo& device = info(x.device().index);
  return options.swiglu ? run<T, Y, true>(p, plan, device) : run<T, Y, false>(p, plan, device);
}

}  // namespace

bool gemv_streamed(const Tensor& x, const Tensor& weight, const Tensor& y, float alpha, float beta,
                   const GemvOptions& options, const GemvPlan& plan) {
  if (!gemv_takes(x, weight, y, options) || !options.frozen || info(x.device().index).major < 9) return false;
  if (plan.warps < 1 || plan.warps > kMaxWarps || plan.blocks < 1) return false;
  const bool bf16 = x.dtype() == DType::bf16;
  if (y.dtype() == DType::f32) {
    return bf16 ? run<__nv_bfloat16, float>(x, weight, y, alpha, beta, options, plan)
                : run<__half, float>(x, weight, y, alpha, beta, options, plan);
  }
  return bf16 ? run<__nv_bfloat16, __nv_bfloat16>(x, weight, y, alpha, beta, options, plan)
              : run<__half, __half>(x, weight, y, alpha, beta, options, plan);
}

}  // namespace wick::cuda
