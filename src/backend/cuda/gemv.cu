#include "backend/cuda/gemv.h"

#include <algorithm>

#include "backend/cuda/mma.cuh"

namespace wick::cuda {
namespace {

// A tensor core product of x [16, 16], of which 8 rows are used, and 8 rows of the weight [8, 16]ᵀ: a lane's registers
// of the weight are one load of 16 bytes of its own row, when both sides take the columns in the order in which these
// bytes lie. So a warp reads 64 bytes of each of 8 rows at a time, and nothing has to be shuffled or converted.
template <class T, class Y>
struct Gemv {
  const T *x, *weight, *bias;
  const T* norm;  // null: x as it is
  const Y* residual;
  Y* y;
  std::int64_t x_stride, weight_stride, residual_stride, y_stride;
  int m, n, k;  // n columns of y
  GemvDivision division;
  float alpha, beta;
  float mean, eps;  // 1 / k, and the norm's
  bool frozen;
  bool far;  // both batches may be fetched before the kernel ahead has ended
};

// Rows of x in shared memory: a multiple of kGemvChunk elements and 64 bytes more, so that two rows lie in 32 banks.
__host__ __device__ inline int padded(int k) { return (k + kGemvChunk - 1) / kGemvChunk * kGemvChunk; }
__host__ __device__ inline int row_pitch(int k) { return padded(k) + 32; }

// Floats in shared memory ahead of x: what the warps that share a unit add up, for every second turn, and before that
// what all warps add up of the squares of every second row.
__host__ __device__ inline int sum_count(int warps, int groups, int m) {
  const int sums = 2 * warps * groups * m * kGemvUnit;
  return sums > 64 ? sums : 64;
}

// The sum over the block, in every thread, in a fixed order. The call after needs another `scratch`, of 32 floats.
__device__ inline float sum_of_block(float value, float* scratch) {
  value = warp_sum(value);
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = value;
  __syncthreads();
  return warp_sum(threadIdx.x % 32 < blockDim.x / 32 ? scratch[threadIdx.x % 32] : 0.0F);
}

// Calls fn(begin) for where the packs of 8 elements of a row begin that are this thread's, less the first `skipped`.
template <class Fn>
__device__ inline void each_pack(int end, Fn&& fn, int skipped = 0) {
  const int step = static_cast<int>(blockDim.x) * 8;
  for (int c = static_cast<int>(threadIdx.x) * 8 + skipped * step; c < end; c += step) fn(c);
}

// Starts to copy a row to shared memory, with zeros behind it up to `end`. A thread copies what each_pack() names.
template <class T>
__device__ inline void copy_row(const T* from, int k, T* to, int end, int skipped = 0) {
  each_pack(
      end, [&](int c) { copy_async16(to + c, from + (c < k ? c : 0), c < k ? 16 : 0); }, skipped);
}

template <class T, class Y, bool kSwiglu, int kLoads>
__global__ __launch_bounds__(gemv_max_warps(kLoads) * 32,
                             gemv_warps(kLoads) /
                                 gemv_max_warps(kLoads)) void gemv_kernel(const __grid_constant__ Gemv<T, Y> p) {
  constexpr int kGroups = kSwiglu ? 2 : 1;  // of units: gate and up
  constexpr int kBatch = gemv_batch(kLoads, kSwiglu);
  const int warps = static_cast<int>(blockDim.x / 32);
  float* const sums = reinterpret_cast<float*>(dynamic_shared());
  T* const xs = reinterpret_cast<T*>(sums + sum_count(warps, kGroups, p.m));
  const int pitch = row_pitch(p.k);
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % 32;
  const int warp = thread / 32;
  const GemvDivision& division = p.division;
  const int part = division.part(warp);
  const int row = lane / 4;  // of x, and of the unit
  const int column = lane % 4 * 8;

  // The next batch that is to be fetched. Behind the block's last there is nothing to do.
  int next_turn = static_cast<int>(blockIdx.x);
  int next_batch = 0;
  const auto load = [&](uint4(&to)[kLoads]) {
    if (next_turn >= division.turns) return;
    const int n = division.unit(next_turn, warp) * kGemvUnit + row;
    const T* const from = p.weight + n * p.weight_stride;
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int chunk = division.chunk(part, next_batch, kBatch, i);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int c = chunk * kGemvChunk + half * 32 + column;
        const bool valid = n < p.n && c < p.k;
#pragma unroll
        for (int group = 0; group < kGroups; ++group) {
          to[(2 * i + half) * kGroups + group] = stream16(from + group * p.n * p.weight_stride + c, valid);
        }
      }
    }
    if (++next_batch == division.batches) {
      next_batch = 0;
      next_turn += static_cast<int>(gridDim.x);
    }
  };

  uint4 even[kLoads];
  uint4 odd[kLoads];
  T* const norm = xs + p.m * pitch;
  if (!p.frozen) wait_for_previous();
  load(even);
  if (p.far) load(odd);
  allow_next();
  if (p.norm != nullptr) copy_row(p.norm, p.k, norm, p.k);
  // All wait for x: the addresses of its first row are ready before it is.
  const int first = thread * 8;
  const int first_bytes = first < p.k ? 16 : 0;
  const T* const first_pack = p.x + (first < p.k ? first : 0);
  const int end = padded(p.k);
  wait_for_previous();
  if (first < end) copy_async16(xs + first, first_pack, first_bytes);

  // What the result is added to, fetched ahead of it by the lanes that will store it.
  int turn = static_cast<int>(blockIdx.x);
  Y residual[2] = {};
  Y before[2] = {};
  T bias[kGroups][2] = {};
  const int y_column = lane % 4 * 2;
  const bool stores = part == 0 && row < p.m;
  const auto fetch = [&] {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int n = division.unit(turn, warp) * kGemvUnit + y_column + i;
      if (!stores || n >= p.n) continue;
      if (p.residual != nullptr) residual[i] = p.residual[row * p.residual_stride + n];
      if (p.beta != 0) before[i] = p.y[row * p.y_stride + n];
      if (p.bias == nullptr) continue;
#pragma unroll
      for (int group = 0; group < kGroups; ++group) bias[group][i] = p.bias[group * p.n + n];
    }
  };

  // The weights that did not come ahead are asked for behind x, but before it is there.
  for (int r = 0; r < p.m; ++r) copy_row(p.x + r * p.x_stride, p.k, xs + r * pitch, end, r == 0 ? 1 : 0);
  fetch();
  if (!p.far) load(odd);
  wait_all_copies();
  if (p.norm != nullptr) {
    for (int r = 0; r < p.m; ++r) {
      T* const x = xs + r * pitch;
      float squares = 0;
      each_pack(p.k, [&](int c) {  // a thread meets only what it copied itself
        const Pack<T> pack = load_pack(x + c);
#pragma unroll
        for (int e = 0; e < 8; ++e) squares = fmaf(to_float(pack[e]), to_float(pack[e]), squares);
      });
      const float scale = rsqrtf(fmaf(sum_of_block(squares, sums + r % 2 * 32), p.mean, p.eps));
      each_pack(p.k, [&](int c) {
        Pack<T> pack = load_pack(x + c);
        const Pack<T> w = load_pack(norm + c);
#pragma unroll
        for (int e = 0; e < 8; ++e) pack[e] = from_float<T>(to_float(pack[e]) * scale * to_float(w[e]));
        store_pack(x + c, pack);
      });
    }
  }
  __syncthreads();

  const auto store = [&](const float(&products)[kGroups][2]) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int n = division.unit(turn, warp) * kGemvUnit + y_column + i;
      if (!stores || n >= p.n) continue;
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
  const auto sums_at = [&](int half, int of, int group) {
    return reinterpret_cast<float2*>(sums + (((half * warps + of) * kGroups + group) * p.m + row) * kGemvUnit +
                                     y_column);
  };

  float products[2][2][4] = {};  // independent sums: by group or by chunk, and by half
  int batch = 0;
  int other = 0;  // which half of `sums`
  // Uses a batch and fetches the next but one in its place; false after the last.
  const auto step = [&](uint4(&now)[kLoads]) {
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int chunk = division.chunk(part, batch, kBatch, i);
      if (chunk >= division.chunks) break;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        uint4 a = {0, 0, 0, 0};
        if (row < p.m) a = *reinterpret_cast<const uint4*>(xs + row * pitch + chunk * kGemvChunk + half * 32 + column);
#pragma unroll
        for (int group = 0; group < kGroups; ++group) {
          const uint4& b = now[(2 * i + half) * kGroups + group];
          float(&sum)[4] = products[kSwiglu ? group : i % 2][half];
          multiply_add<T>(sum, {a.x, 0, a.y, 0}, b.x, b.y);
          multiply_add<T>(sum, {a.z, 0, a.w, 0}, b.z, b.w);
        }
      }
    }
    load(now);
    if (++batch < division.batches) return true;

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
    if (division.parts > 1) {
      if (row < p.m) {
#pragma unroll
        for (int group = 0; group < kGroups; ++group) {
          *sums_at(other, warp, group) = {total[group][0], total[group][1]};
        }
      }
      __syncthreads();
      if (stores) {
#pragma unroll 4
        for (int i = 1; i < division.parts; ++i) {
#pragma unroll
          for (int group = 0; group < kGroups; ++group) {
            const float2 more = *sums_at(other, warp + i, group);
            total[group][0] += more.x;
            total[group][1] += more.y;
          }
        }
      }
      other = 1 - other;  // by the time this half is written again, all have passed another barrier
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
    if (turn >= division.turns) return false;
    fetch();
    return true;
  };
  while (step(even) && step(odd)) {
  }
}

std::size_t shared_bytes(std::int64_t m, std::int64_t k, bool norm, int groups, int warps) {
  return static_cast<std::size_t>(sum_count(warps, groups, static_cast<int>(m))) * sizeof(float) +
         static_cast<std::size_t>(m * row_pitch(static_cast<int>(k)) + (norm ? k : 0)) * 2;
}

template <class T, class Y, bool kSwiglu>
void run(const Gemv<T, Y>& given, const GemvPlan* forced, const DeviceInfo& device) {
  Gemv<T, Y> p = given;
  const GemvShape shape = {p.n, p.k, kSwiglu};
  const GemvPlan plan = forced != nullptr ? *forced : choose_gemv_plan(shape, device.multiprocessors);
  p.division = divide(shape, plan);
  p.far = plan.ahead > 1;
  const std::size_t shared = shared_bytes(p.m, p.k, p.norm != nullptr, kSwiglu ? 2 : 1, plan.warps);
  constexpr std::size_t kReserved = 1024;  // of a block's shared memory, by the system
  const auto fit = static_cast<int>((device.shared_bytes + kReserved) / (shared + kReserved));
  const int blocks = gemv_blocks(p.division, device.multiprocessors, std::clamp(fit, 1, plan.resident));
  const double weights = static_cast<double>(p.n) * p.k * (kSwiglu ? 2 : 1);
  const Work work = {"gemv",
                     weights * sizeof(T) + static_cast<double>(p.m) * (p.k * sizeof(T) + p.n * sizeof(Y)),
                     2 * weights * p.m,
                     p.m,
                     p.n,
                     p.k};
  const Launch how = {.grid = dim3(static_cast<unsigned>(blocks)),
                      .block = dim3(static_cast<unsigned>(plan.warps) * 32),
                      .shared = shared,
                      .overlap = true};
  plan.loads > 4 ? launch(work, gemv_kernel<T, Y, kSwiglu, 8>, how, p)
                 : launch(work, gemv_kernel<T, Y, kSwiglu, 4>, how, p);
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
  p.mean = 1 / static_cast<float>(p.k);
  p.eps = options.eps;
  p.frozen = options.frozen;
  const DeviceInfo& device = info(x.device().index);
  options.swiglu ? run<T, Y, true>(p, options.plan, device) : run<T, Y, false>(p, options.plan, device);
}

bool dense(const Tensor& t) { return t.stride(t.rank() - 1) == 1 || t.size(t.rank() - 1) <= 1; }

}  // namespace

bool gemv(const Tensor& x, const Tensor& weight, const Tensor& y, float alpha, float beta, const GemvOptions& options) {
  const std::int64_t m = x.size(0);
  const std::int64_t k = x.size(1);
  const std::int64_t n = weight.size(0);
  const bool small = m > 0 && m <= kGemvMaxRows && k > 0 && k % 8 == 0 && n > 0 && k < (1 << 30) && n < (1 << 30);
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
  if (device.major < 8 || shared_bytes(m, k, norm.defined(), 2, gemv_max_warps(8)) > device.shared_bytes) return false;
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
