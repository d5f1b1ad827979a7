// AdamW, gradient norm and clipping on CUDA over one flat buffer: three launches, and none of them waits for the host.
#include <cmath>

#include "backend/cuda/kernels.cuh"
#include "ops/adamw/adamw.h"

namespace wick::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kPack = 4;
constexpr std::int64_t kBlock = 8192;  // values a block sums

// Of thread 0: the sum over the block, in a fixed order.
__device__ double sum_block(double value) {
  __shared__ double parts[kThreads];
  parts[threadIdx.x] = value;
  for (int half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) parts[threadIdx.x] += parts[threadIdx.x + half];
  }
  return threadIdx.x == 0 ? parts[0] : 0.0;  // the others would read it before it is there
}

// Blocks of fixed length, so the same bytes every run. In double: float32 cannot hold every square.
__global__ void __launch_bounds__(kThreads)
    squares(const float* values, std::int64_t count, bool packed, double* sums) {
  wait_for_previous();
  allow_next();
  const std::int64_t begin = blockIdx.x * kBlock;
  double sum = 0;
  const auto add = [&](float value) { sum = fma(static_cast<double>(value), static_cast<double>(value), sum); };
  if (packed && begin + kBlock <= count) {
    constexpr int kPacks = kBlock / (kThreads * kPack);
    Pack<float> pack[kPacks];
#pragma unroll
    for (int p = 0; p < kPacks; ++p) pack[p] = load_pack(values + begin + (p * kThreads + threadIdx.x) * kPack);
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
#pragma unroll
      for (int e = 0; e < kPack; ++e) add(pack[p][e]);
    }
  } else {
    const std::int64_t end = min(begin + kBlock, count);
    for (std::int64_t i = begin + threadIdx.x; i < end; i += kThreads) add(values[i]);
  }
  sum = sum_block(sum);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(kThreads) root_of_sum(const double* sums, std::int64_t count, double* norm) {
  wait_for_previous();
  allow_next();
  double sum = 0;
  for (std::int64_t i = threadIdx.x; i < count; i += kThreads) sum += sums[i];
  sum = sum_block(sum);
  if (threadIdx.x == 0) *norm = ::sqrt(sum);
}

struct Buffers {
  float* parameters;
  const float* gradients;
  float* exp_avg;
  float* exp_avg_sq;
  std::int64_t count;
};

struct Constants {
  float beta1, rest1, beta2, rest2, eps;  // rest = 1 - beta, rounded once
  double weight_decay;
};

// What changes from step to step, rounded once.
struct Factors {
  float scale;  // of the gradient
  float decay;  // of the parameter
  float rate;
  float root;  // of the second moment's correction
};
__host__ __device__ inline Factors factors_of(double learning_rate, double correction1, double correction2,
                                              double weight_decay, double scale) {
  return {static_cast<float>(scale), static_cast<float>(1 - learning_rate * weight_decay),
          static_cast<float>(learning_rate / correction1), static_cast<float>(1 / ::sqrt(correction2))};
}

template <int kCount>
__device__ void step_at(const Buffers& b, const Constants& c, const Factors& f, std::int64_t i) {
  auto p = load_pack<float, kCount>(b.parameters + i);
  auto m = load_pack<float, kCount>(b.exp_avg + i);
  auto v = load_pack<float, kCount>(b.exp_avg_sq + i);
  const auto gradient = load_pack<float, kCount>(b.gradients + i);
#pragma unroll
  for (int e = 0; e < kCount; ++e) {
    const float g = gradient[e] * f.scale;
    m[e] = fmaf(c.beta1, m[e], c.rest1 * g);
    v[e] = fmaf(c.beta2, v[e], c.rest2 * g * g);
    p[e] = p[e] * f.decay - f.rate * m[e] / fmaf(sqrtf(v[e]), f.root, c.eps);
  }
  store_pack(b.exp_avg + i, m);
  store_pack(b.exp_avg_sq + i, v);
  store_pack(b.parameters + i, p);
}

__device__ void step_all(const Buffers& b, const Constants& c, const Factors& f, bool packed) {
  const std::int64_t begin = (static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x) * kPack;
  if (packed && begin + kPack <= b.count) return step_at<kPack>(b, c, f, begin);
  const std::int64_t end = min(begin + kPack, b.count);
  for (std::int64_t i = begin; i < end; ++i) step_at<1>(b, c, f, i);
}

__global__ void __launch_bounds__(kThreads) adamw(Buffers buffers, Constants constants, Factors factors, bool packed) {
  wait_for_previous();
  allow_next();
  step_all(buffers, constants, factors, packed);
}

// The same with numbers that lie on the device. A norm that is not finite leaves everything as it is.
__global__ void __launch_bounds__(kThreads) clipped_adamw(Buffers buffers, Constants constants, const double* schedule,
                                                          const double* norm, double max_norm, bool packed) {
  wait_for_previous();
  allow_next();
  if (!isfinite(*norm)) return;
  __shared__ Factors factors;
  if (threadIdx.x == 0) {  // once a block: these are doubles
    const double scale = max_norm > 0 ? fmin(1.0, max_norm / (*norm + 1e-6)) : 1.0;
    factors = factors_of(schedule[0], schedule[1], schedule[2], constants.weight_decay, scale);
  }
  __syncthreads();
  step_all(buffers, constants, factors, packed);
}

Buffers buffers_of(const Tensor& parameters, const Tensor& gradients, const Tensor& exp_avg, const Tensor& exp_avg_sq) {
  return {pointer<float>(parameters), pointer<float>(gradients), pointer<float>(exp_avg), pointer<float>(exp_avg_sq),
          parameters.numel()};
}

Constants constants_of(const AdamWOptions& o) {
  return {static_cast<float>(o.beta1),     static_cast<float>(1 - o.beta1), static_cast<float>(o.beta2),
          static_cast<float>(1 - o.beta2), static_cast<float>(o.eps),       o.weight_decay};
}

Launch over(std::int64_t count) {
  return {.grid = {blocks_for(count, kThreads * kPack)}, .block = {kThreads}, .overlap = true};
}

bool all_pack(const Tensor& parameters, const Tensor& gradients, const Tensor& exp_avg, const Tensor& exp_avg_sq) {
  return packs(parameters) && packs(gradients) && packs(exp_avg) && packs(exp_avg_sq);
}

Work step_work(std::int64_t count) { return {"adamw", 28.0 * static_cast<double>(count)}; }

Declined adamw_step_cuda(const Tensor& parameters, const Tensor& gradients, const Tensor& exp_avg,
                         const Tensor& exp_avg_sq, const AdamWOptions& options, std::int64_t step, double grad_scale) {
  const Factors factors =
      factors_of(options.learning_rate, 1 - std::pow(options.beta1, static_cast<double>(step)),
                 1 - std::pow(options.beta2, static_cast<double>(step)), options.weight_decay, grad_scale);
  launch(step_work(parameters.numel()), adamw, over(parameters.numel()),
         buffers_of(parameters, gradients, exp_avg, exp_avg_sq), constants_of(options), factors,
         all_pack(parameters, gradients, exp_avg, exp_avg_sq));
  return nullptr;
}

Declined gradient_norm_cuda(const Tensor& gradients, const Tensor& norm) {
  const std::int64_t count = gradients.numel();
  const unsigned blocks = blocks_for(count, kBlock);
  const Tensor sums = Tensor::empty({static_cast<std::int64_t>(blocks)}, DType::f64, gradients.device());
  launch({"gradient norm", 4.0 * static_cast<double>(count)}, squares,
         {.grid = {blocks}, .block = {kThreads}, .overlap = true}, pointer<float>(gradients), count, packs(gradients),
         pointer<double>(sums));
  launch({"gradient norm"}, root_of_sum, {.grid = {1}, .block = {kThreads}, .overlap = true}, pointer<double>(sums),
         static_cast<std::int64_t>(blocks), pointer<double>(norm));
  return nullptr;
}

Declined clipped_adamw_step_cuda(const Tensor& parameters, const Tensor& gradients, const Tensor& exp_avg,
                                 const Tensor& exp_avg_sq, const AdamWOptions& options, double max_grad_norm,
                                 const Tensor& schedule, const Tensor& norm) {
  gradient_norm_cuda(gradients, norm);
  launch(step_work(parameters.numel()), clipped_adamw, over(parameters.numel()),
         buffers_of(parameters, gradients, exp_avg, exp_avg_sq), constants_of(options), pointer<double>(schedule),
         pointer<double>(norm), max_grad_norm, all_pack(parameters, gradients, exp_avg, exp_avg_sq));
  return nullptr;
}

}  // namespace

void register_adamw() {
  adamw_step_kernels.on(DeviceType::cuda) = adamw_step_cuda;
  gradient_norm_kernels.on(DeviceType::cuda) = gradient_norm_cuda;
  clipped_adamw_step_kernels.on(DeviceType::cuda) = clipped_adamw_step_cuda;
}

}  // namespace wick::cuda
