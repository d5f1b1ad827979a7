// AdamW, gradient norm and clipping on CUDA over one flat buffer: three launches, and none of them waits for the host.
#include <cmath>

#include "backend/cuda/kernels.cuh"
#include "ops/adamw/adamw.h"

namespace wick::cuda {
namespace {

constexpr int kThreads = 256;
constexpr std::int64_t kBlock = 16384;  // values a block sums

__device__ double sum_block(double value) {
  __shared__ double parts[kThreads];
  parts[threadIdx.x] = value;
  for (int half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) parts[threadIdx.x] += parts[threadIdx.x + half];
  }
  return parts[0];  // of thread 0
}

// Blocks of fixed length, so the same bytes every run.
__global__ void squares(const float* values, std::int64_t count, double* sums) {
  const std::int64_t begin = blockIdx.x * kBlock;
  const std::int64_t end = min(begin + kBlock, count);
  double sum = 0;
  for (std::int64_t i = begin + threadIdx.x; i < end; i += kThreads) {
    const auto value = static_cast<double>(values[i]);
    sum += value * value;
  }
  sum = sum_block(sum);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

__global__ void root_of_sum(const double* sums, std::int64_t count, double* norm) {
  double sum = 0;
  for (std::int64_t i = threadIdx.x; i < count; i += kThreads) sum += sums[i];
  sum = sum_block(sum);
  if (threadIdx.x == 0) *norm = ::sqrt(sum);
}

// What changes from step to step.
struct Scalars {
  double learning_rate, correction1, correction2, scale;
};

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

__device__ void step_all(const Buffers& b, const Constants& c, const Scalars& s) {
  const auto scale = static_cast<float>(s.scale);
  const auto decay = static_cast<float>(1 - s.learning_rate * c.weight_decay);
  const auto rate = static_cast<float>(s.learning_rate / s.correction1);
  const auto root = static_cast<float>(1 / ::sqrt(s.correction2));
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= b.count) return;
  const float g = b.gradients[i] * scale;
  const float m = c.beta1 * b.exp_avg[i] + c.rest1 * g;
  const float v = c.beta2 * b.exp_avg_sq[i] + c.rest2 * g * g;
  b.exp_avg[i] = m;
  b.exp_avg_sq[i] = v;
  b.parameters[i] = b.parameters[i] * decay - rate * m / (sqrtf(v) * root + c.eps);
}

__global__ void adamw(Buffers buffers, Constants constants, Scalars scalars) { step_all(buffers, constants, scalars); }

// The same with scalars that lie on the device. A norm that is not finite leaves everything as it is.
__global__ void clipped_adamw(Buffers buffers, Constants constants, const double* schedule, const double* norm,
                              double max_norm) {
  if (!isfinite(*norm)) return;
  const double scale = max_norm > 0 ? fmin(1.0, max_norm / (*norm + 1e-6)) : 1.0;
  step_all(buffers, constants, {schedule[0], schedule[1], schedule[2], scale});
}

Buffers buffers_of(const Tensor& parameters, const Tensor& gradients, const Tensor& exp_avg, const Tensor& exp_avg_sq) {
  return {pointer<float>(parameters), pointer<float>(gradients), pointer<float>(exp_avg), pointer<float>(exp_avg_sq),
          parameters.numel()};
}

Constants constants_of(const AdamWOptions& o) {
  return {static_cast<float>(o.beta1),     static_cast<float>(1 - o.beta1), static_cast<float>(o.beta2),
          static_cast<float>(1 - o.beta2), static_cast<float>(o.eps),       o.weight_decay};
}

Launch over(std::int64_t count) { return {.grid = {blocks_for(count, kThreads)}, .block = {kThreads}}; }

Work step_work(std::int64_t count) { return {"adamw", 28.0 * static_cast<double>(count)}; }

Declined adamw_step_cuda(const Tensor& parameters, const Tensor& gradients, const Tensor& exp_avg,
                         const Tensor& exp_avg_sq, const AdamWOptions& options, std::int64_t step, double grad_scale) {
  const Scalars scalars{options.learning_rate, 1 - std::pow(options.beta1, static_cast<double>(step)),
                        1 - std::pow(options.beta2, static_cast<double>(step)), grad_scale};
  launch(step_work(parameters.numel()), adamw, over(parameters.numel()),
         buffers_of(parameters, gradients, exp_avg, exp_avg_sq), constants_of(options), scalars);
  return nullptr;
}

Declined gradient_norm_cuda(const Tensor& gradients, const Tensor& norm) {
  const std::int64_t count = gradients.numel();
  const unsigned blocks = blocks_for(count, kBlock);
  const Tensor sums = Tensor::empty({static_cast<std::int64_t>(blocks)}, DType::f64, gradients.device());
  launch({"gradient norm", 4.0 * static_cast<double>(count)}, squares, {.grid = {blocks}, .block = {kThreads}},
         pointer<float>(gradients), count, pointer<double>(sums));
  launch({"gradient norm"}, root_of_sum, {.grid = {1}, .block = {kThreads}}, pointer<double>(sums),
         static_cast<std::int64_t>(blocks), pointer<double>(norm));
  return nullptr;
}

Declined clipped_adamw_step_cuda(const Tensor& parameters, const Tensor& gradients, const Tensor& exp_avg,
                                 const Tensor& exp_avg_sq, const AdamWOptions& options, double max_grad_norm,
                                 const Tensor& schedule, const Tensor& norm) {
  gradient_norm_cuda(gradients, norm);
  launch(step_work(parameters.numel()), clipped_adamw, over(parameters.numel()),
         buffers_of(parameters, gradients, exp_avg, exp_avg_sq), constants_of(options), pointer<double>(schedule),
         pointer<double>(norm), max_grad_norm);
  return nullptr;
}

}  // namespace

void register_adamw() {
  adamw_step_kernels.on(DeviceType::cuda) = adamw_step_cuda;
  gradient_norm_kernels.on(DeviceType::cuda) = gradient_norm_cuda;
  clipped_adamw_step_kernels.on(DeviceType::cuda) = clipped_adamw_step_cuda;
}

}  // namespace wick::cuda
