#include "backend/cuda/gemv.h"

#include <algorithm>

#include "backend/cuda/mma.cuh"

namespace wick::cuda {
namespace {

// A tensor core product of x [16, 16], of which 8 rows are used, and 8 rows of the weight [8, 16]ᵀ: a lane's registers
// of the weight are one load of 16 bytes of its own row, when both sides take the columns in the order in which these
// bytes lie. So a warp reads 64 bytes of each of 8 rows at a time, and nothing has to be shuffled or converted.
constexpr int kThreads = 256;      // of a block; two share a multiprocessor
constexpr int kManyThreads = 512;  // of one that has it alone
constexpr int kMaxRows = 8;        // of x
constexpr int kUnit = 8;           // rows of the weight that a warp works on
constexpr int kChunk = 64;         // columns: a line of each row, in two loads
constexpr int kInFlight = 8;       // loads of a batch; the next batch is under way while one is used
constexpr int kPacks = 4;          // of x that a thread has under way

/// What the warps that share a unit add up, for every second turn.
template <bool kSwiglu, int kBlock>
struct Sums {
  float values[2][kBlock / 32][kSwiglu ? 2 : 1][kUnit * kMaxRows];
};

template <class T, class Y>
struct Gemv {
  const T *x, *weight, *bias;
  const T* norm;  // null: x as it is
  const Y* residual;
  Y* y;
  std::int64_t x_stride, weight_stride, residual_stride, y_stride;
  int m, n, k;  // n columns of y
  int parts;    // of k: so many warps share a unit, a power of two
  float alpha, beta, eps;
  bool frozen;
};

// Rows of x in shared memory: a multiple of kChunk elements and 64 bytes more, so that two rows lie in 32 banks.
__host__ __device__ inline int padded(int k) { return (k + kChunk - 1) / kChunk * kChunk; }
__host__ __device__ inline int row_pitch(int k) { return padded(k) + 32; }

// Calls fn(begin) for where the packs of 8 elements of a row begin that are this thread's.
template <int kBlock, class Fn>
__device__ inline void each_pack(int end, Fn&& fn) {
  for (int c = static_cast<int>(threadIdx.x) * 8; c < end; c += kBlock * 8) fn(c);
}

// x to shared memory, with zeros behind its rows.
template <int kBlock, class T>
__device__ inline void load_rows(const T* x, std::int64_t stride, int m, int k, T* xs) {
  const int packs = padded(k) / 8;
  for (int first = static_cast<int>(threadIdx.x); first < m * packs; first += kPacks * kBlock) {
    Pack<T> held[kPacks];
#pragma unroll
    for (int u = 0; u < kPacks; ++u) {
      const int i = first + u * kBlock;
      const int c = i % packs * 8;
      held[u] = {};
      if (i < m * packs && c < k) held[u] = load_pack(x + i / packs * stride + c);
    }
#pragma unroll
    for (int u = 0; u < kPacks; ++u) {
      const int i = first + u * kBlock;
      if (i < m * packs) store_pack(xs + i / packs * row_pitch(k) + i % packs * 8, held[u]);
    }
  }
}

// A row of x to shared memory, normalised. A thread meets only what it wrote itself. `scratch` holds a float for each
// warp.
template <int kBlock, class T>
__device__ inline void load_normalised(const T* x, const T* norm, float eps, int k, T* xs, float* scratch) {
  float squares = 0;
  for (int first = static_cast<int>(threadIdx.x) * 8; first < padded(k); first += kPacks * kBlock * 8) {
    Pack<T> held[kPacks];
#pragma unroll
    for (int u = 0; u < kPacks; ++u) {
      const int c = first + u * kBlock * 8;
      held[u] = {};
      if (c < k) held[u] = load_pack(x + c);
    }
#pragma unroll
    for (int u = 0; u < kPacks; ++u) {
      const int c = first + u * kBlock * 8;
#pragma unroll
      for (int e = 0; e < 8; ++e) squares = fmaf(to_float(held[u][e]), to_float(held[u][e]), squares);
      if (c < padded(k)) store_pack(xs + c, held[u]);
    }
  }
  const float scale = rsqrtf(block_sum<kBlock>(squares, scratch) / static_cast<float>(k) + eps);
  each_pack<kBlock>(k, [&](int c) {
    Pack<T> pack = load_pack(xs + c);
    const Pack<T> w = load_pack(norm + c);
#pragma unroll
    for (int e = 0; e < 8; ++e) pack[e] = from_float<T>(to_float(pack[e]) * scale * to_float(w[e]));
    store_pack(xs + c, pack);
  });
}

template <class T, class Y, bool kSwiglu, int kBlock>
__global__ __launch_bounds__(kBlock, kManyThreads / kBlock) void gemv_kernel(const __grid_constant__ Gemv<T, Y> p) {
  constexpr int kGroups = kSwiglu ? 2 : 1;  // of kUnit rows: gate and up
  constexpr int kBatch = kInFlight / 2 / kGroups;
  auto& sums = reinterpret_cast<Sums<kSwiglu, kBlock>*>(dynamic_shared())->values;
  T* const xs = reinterpret_cast<T*>(dynamic_shared() + sizeof(Sums<kSwiglu, kBlock>));
  const int pitch = row_pitch(p.k);
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int warp = static_cast<int>(threadIdx.x / 32);
  const int part = warp % p.parts;
  const int units = (p.n + kUnit - 1) / kUnit;
  const int units_of_block = kBlock / 32 / p.parts;
  const int chunks = (p.k + kChunk - 1) / kChunk;
  const int batches = ((chunks + p.parts - 1) / p.parts + kBatch - 1) / kBatch;
  const int last = (units + units_of_block - 1) / units_of_block;  // where the blocks' turns end
  const int row = lane / 4;                                        // of x, and of the unit
  const int column = lane % 4 * 8;

  const auto first_row = [&](int turn) { return (turn * units_of_block + warp / p.parts) * kUnit; };
  const auto load = [&](uint4(&to)[kInFlight], int turn, int batch) {
    const int n = first_row(turn) + row;
    const T* const from = p.weight + n * p.weight_stride;
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int chunk = part + p.parts * (batch * kBatch + i);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int c = chunk * kChunk + half * 32 + column;
        const bool valid = turn < last && n < p.n && c < p.k;
#pragma unroll
        for (int group = 0; group < kGroups; ++group) {
          to[(2 * i + half) * kGroups + group] = stream16(from + group * p.n * p.weight_stride + c, valid);
        }
      }
    }
  };

  uint4 even[kInFlight];
  uint4 odd[kInFlight];
  int turn = static_cast<int>(blockIdx.x);
  int batch = 0;
  T* const norm = xs + p.m * pitch;
  const auto load_frozen = [&] {
    load(even, turn, 0);
    allow_next();
    if (p.norm != nullptr) each_pack<kBlock>(p.k, [&](int c) { store_pack(norm + c, load_pack(p.norm + c)); });
  };
  if (p.frozen) load_frozen();
  wait_for_previous();
  if (!p.frozen) load_frozen();

  if (p.norm != nullptr) {
    for (int r = 0; r < p.m; ++r) {
      load_normalised<kBlock>(p.x + r * p.x_stride, norm, p.eps, p.k, xs + r * pitch, &sums[0][0][0][0]);
    }
  } else {
    load_rows<kBlock>(p.x, p.x_stride, p.m, p.k, xs);
  }
  __syncthreads();

  // What the result is added to, fetched ahead of it by the lanes that will store it.
  Y residual[2] = {};
  Y before[2] = {};
  T bias[kGroups][2] = {};
  const int y_column = lane % 4 * 2;
  const auto fetch = [&] {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int n = first_row(turn) + y_column + i;
      if (part != 0 || row >= p.m || n >= p.n) continue;
      if (p.residual != nullptr) residual[i] = p.residual[row * p.residual_stride + n];
      if (p.beta != 0) before[i] = p.y[row * p.y_stride + n];
      if (p.bias == nullptr) continue;
#pragma unroll
      for (int group = 0; group < kGroups; ++group) bias[group][i] = p.bias[group * p.n + n];
    }
  };
  const auto store = [&](const float(&products)[kGroups][2]) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int n = first_row(turn) + y_column + i;
      if (part != 0 || row >= p.m || n >= p.n) continue;
      float value = p.alpha * products[0][i] + to_float(bias[0][i]);
      if constexpr (kSwiglu) {
        const float up = p.alpha * products[kGroups - 1][i] + to_float(bias[kGroups - 1][i]);
        value = value / (1 + __expf(-value)) * up;
      }
      value += to_float(residual[i]);
      if (p.beta != 0) value += p.beta * to_float(before[i]);
      p.y[row * p.y_stride + n] = from_float<Y>(value);
    }
  };

  float products[2][2][4] = {};  // independent sums: by group or by chunk, and by half
  bool other = false;            // which half of `sums`
  // Uses one batch while the next comes in; false after the last.
  const auto step = [&](uint4(&now)[kInFlight], uint4(&next)[kInFlight]) {
    const bool ends = batch + 1 == batches;
    load(next, ends ? turn + static_cast<int>(gridDim.x) : turn, ends ? 0 : batch + 1);
    if (batch == 0) fetch();
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int chunk = part + p.parts * (batch * kBatch + i);
      if (chunk >= chunks) break;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        uint4 a = {0, 0, 0, 0};
        if (row < p.m) a = *reinterpret_cast<const uint4*>(xs + row * pitch + chunk * kChunk + half * 32 + column);
#pragma unroll
        for (int group = 0; group < kGroups; ++group) {
          const uint4& b = now[(2 * i + half) * kGroups + group];
          float(&sum)[4] = products[kSwiglu ? group : i % 2][half];
          multiply_add<T>(sum, {a.x, 0, a.y, 0}, b.x, b.y);
          multiply_add<T>(sum, {a.z, 0, a.w, 0}, b.z, b.w);
        }
      }
    }
    ++batch;
    if (!ends) return true;

    float total[kGroups][2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float a = products[0][0][i] + products[0][1][i];
      const float b = products[1][0][i] + products[1][1][i];
      if constexpr (kSwiglu) {
        total[0][i] = a;
        total[kGroups - 1][i] = b;
      } else {
        total[0][i] = a + b;
      }
    }
    if (p.parts > 1) {
#pragma unroll
      for (int group = 0; group < kGroups; ++group) {
        *reinterpret_cast<float2*>(&sums[other][warp][group][row * kUnit + y_column]) = {total[group][0],
                                                                                         total[group][1]};
      }
      __syncthreads();
      if (part == 0) {
        for (int i = 1; i < p.parts; ++i) {
#pragma unroll
          for (int group = 0; group < kGroups; ++group) {
            total[group][0] += sums[other][warp + i][group][row * kUnit + y_column];
            total[group][1] += sums[other][warp + i][group][row * kUnit + y_column + 1];
          }
        }
      }
      other = !other;  // by the time this half is written again, all have passed another barrier
    }
    store(total);
#pragma unroll
    for (auto& pair : products) {
#pragma unroll
      for (auto& sum : pair) {
#pragma unroll
        for (float& value : sum) value = 0;
      }
    }
    batch = 0;
    turn += static_cast<int>(gridDim.x);
    return turn < last;
  };
  if (turn >= last) return;
  while (step(even, odd) && step(odd, even)) {
  }
}

template <bool kSwiglu, int kBlock>
std::size_t shared_bytes(std::int64_t m, std::int64_t k, bool norm) {
  return sizeof(Sums<kSwiglu, kBlock>) +
         static_cast<std::size_t>(m * row_pitch(static_cast<int>(k)) + (norm ? k : 0)) * 2;
}

/// How units are spread over blocks.
struct Plan {
  int parts = 1;
  std::int64_t blocks = 1;
  std::int64_t batches = 0;  ///< that a warp fetches, one after the other
};

Plan plan_of(std::int64_t units, std::int64_t chunks, std::int64_t batch, int warps, int parts, std::int64_t room) {
  const auto over = [](std::int64_t a, std::int64_t b) { return (a + b - 1) / b; };
  const std::int64_t turns = over(units * parts, warps);
  return {parts, std::min(turns, room), over(turns, room) * over(over(chunks, parts), batch)};
}

template <class T, class Y, bool kSwiglu>
void run(const Gemv<T, Y>& given, const DeviceInfo& device) {
  Gemv<T, Y> p = given;
  const bool norm = p.norm != nullptr;
  const std::size_t shared = shared_bytes<kSwiglu, kThreads>(p.m, p.k, norm);
  const std::int64_t room = device.multiprocessors * (shared <= 100 * 1024 ? 2 : 1);
  const std::int64_t units = (p.n + kUnit - 1) / kUnit;
  const std::int64_t chunks = (p.k + kChunk - 1) / kChunk;
  constexpr std::int64_t kBatch = kInFlight / (kSwiglu ? 4 : 2);
  // As few warps to a unit as still give every block the same number of turns, or nearly.
  Plan plan;
  double best = 0;
  for (int parts = 1; parts <= kThreads / 32 && best < 0.9; parts *= 2) {
    const Plan next = plan_of(units, chunks, kBatch, kThreads / 32, parts, room);
    const std::int64_t turns = (units * parts + kThreads / 32 - 1) / (kThreads / 32);
    const double busy = static_cast<double>(turns) / static_cast<double>((turns + room - 1) / room * room);
    if (busy < best) continue;
    best = busy;
    plan = next;
  }
  // Few long rows: twice as many warps fetch them in fewer batches.
  const Plan wide = plan_of(units, chunks, kBatch, kManyThreads / 32, kManyThreads / 32, device.multiprocessors);
  const std::size_t wide_shared = shared_bytes<kSwiglu, kManyThreads>(p.m, p.k, norm);
  const bool is_wide = wide.batches < plan.batches && wide_shared <= device.shared_bytes;
  if (is_wide) plan = wide;
  p.parts = plan.parts;
  const double weights = static_cast<double>(p.n) * p.k * (kSwiglu ? 2 : 1);
  const Work work = {"gemv",
                     weights * sizeof(T) + static_cast<double>(p.m) * (p.k * sizeof(T) + p.n * sizeof(Y)),
                     2 * weights * p.m,
                     p.m,
                     p.n,
                     p.k};
  const dim3 grid(static_cast<unsigned>(plan.blocks));
  if (is_wide) {
    launch(work, gemv_kernel<T, Y, kSwiglu, kManyThreads>,
           {.grid = grid, .block = dim3(kManyThreads), .shared = wide_shared, .overlap = true}, p);
  } else {
    launch(work, gemv_kernel<T, Y, kSwiglu, kThreads>,
           {.grid = grid, .block = dim3(kThreads), .shared = shared, .overlap = true}, p);
  }
}

template <class T, class Y>
void run(const Tensor& x, const Tensor& weight, const Tensor& y, float alpha, float beta, const GemvOptions& options) {
  Gemv<T, Y> p = {};
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
  p.frozen = options.frozen;
  const DeviceInfo& device = info(x.device().index);
  options.swiglu ? run<T, Y, true>(p, device) : run<T, Y, false>(p, device);
}

bool dense(const Tensor& t) { return t.stride(t.rank() - 1) == 1 || t.size(t.rank() - 1) <= 1; }

}  // namespace

bool gemv(const Tensor& x, const Tensor& weight, const Tensor& y, float alpha, float beta, const GemvOptions& options) {
  const std::int64_t m = x.size(0);
  const std::int64_t k = x.size(1);
  const std::int64_t n = weight.size(0);
  const bool small = m > 0 && m <= kMaxRows && k > 0 && k % 8 == 0 && n > 0 && k < (1 << 30) && n < (1 << 30);
  if (!small || weight.size(1) != k || y.size(0) != m || y.size(1) != (options.swiglu ? n / 2 : n)) return false;
  if (options.swiglu && n % 2 != 0) return false;
  if (x.dtype() != DType::bf16 && x.dtype() != DType::f16) return false;
  if (weight.dtype() != x.dtype() || (y.dtype() != x.dtype() && y.dtype() != DType::f32)) return false;
  if (!dense(x) || !dense(weight) || !dense(y) || !packs(weight) || !packs(x, m == 1 ? 0 : x.stride(0))) return false;
  if (options.bias.defined() && (options.bias.dtype() != x.dtype() || !dense(options.bias))) return false;
  const Tensor& norm = options.norm;
  if (norm.defined() && (norm.dtype() != x.dtype() || norm.numel() != k || !dense(norm) || !packs(norm))) return false;
  if (options.residual.defined() && (options.residual.dtype() != y.dtype() || !dense(options.residual))) return false;
  const DeviceInfo& device = info(x.device().index);
  if (device.major < 8 || shared_bytes<true, kThreads>(m, k, options.norm.defined()) > device.shared_bytes)
    return false;
  const bool bf16 = x.dtype() == DType::bf16;
  if (y.dtype() == DType::f32) {
    bf16 ? run<__nv_bfloat16, float>(x, weight, y, alpha, beta, options)
         : run<__half, float>(x, weight, y, alpha, beta, options);
  } else {
    bf16 ? run<__nv_bfloat16, __nv_bfloat16>(x, weight, y, alpha, beta, options)
         : run<__half, __half>(x, weight, y, alpha, beta, options);
  }
  return true;
}

}  // namespace wick::cuda
