#include "ops/samples.h"

namespace wick {

std::vector<OpSample> adamw_samples() {
  std::vector<OpSample> samples;
  const auto step = [&](std::string name, std::int64_t length, const AdamWOptions& options, std::int64_t number,
                        double grad_scale, bool bench = false) {
    const auto run = [=](std::span<const Tensor> in) {
      std::vector<Tensor> buffers;
      for (const Tensor& t : in) buffers.push_back(t.to(DType::f32).clone());
      adamw_step(buffers[0], buffers[1], buffers[2], buffers[3], options, number, grad_scale);
      return std::vector{buffers[0], buffers[2], buffers[3]};
    };
    SampleInput squares = positive({length});
    squares.differentiable = false;
    samples.push_back({.name = std::move(name),
                       .inputs = {frozen({length}), frozen({length}), frozen({length}), squares},
                       .run = run,
                       .gradients = false,
                       .bench = bench,
                       .dtypes = {DType::f32}});
  };
  step("no parameters", 0, {}, 1, 1.0);
  step("one parameter", 1, {}, 1, 1.0);
  step("odd", 37, {.learning_rate = 0.1}, 3, 1.0);
  step("clipped", 100, {.learning_rate = 0.01, .weight_decay = 0.1}, 7, 0.25);
  step("no decay, no momentum", 65, {.learning_rate = 0.05, .beta1 = 0, .weight_decay = 0}, 2, 1.0);
  step("several threads", 70001, {.learning_rate = 0.01}, 1000, 1.0);
  step("4 Mi parameters", std::int64_t{1} << 22, {}, 10, 1.0, true);
  for (const std::int64_t length : {0, 3, 70001}) {
    const auto run = [](std::span<const Tensor> in) {
      std::vector<Tensor> buffers;
      for (const Tensor& t : in) buffers.push_back(t.to(DType::f32).clone());
      const Device device = in[0].device();
      const Tensor schedule = Tensor::from(std::vector<double>{0.01, 0.4, 0.2}, {3}).to(device);
      const Tensor found = Tensor::empty({1}, DType::f64, device);
      clipped_adamw_step(buffers[0], buffers[1], buffers[2], buffers[3], {}, 1.0, schedule, found);
      return std::vector{buffers[0], buffers[2], buffers[3], found};
    };
    SampleInput squares = positive({length});
    squares.differentiable = false;
    samples.push_back({.name = "clipped_adamw_step of " + std::to_string(length),
                       .inputs = {frozen({length}), frozen({length}), frozen({length}), squares},
                       .run = run,
                       .gradients = false,
                       .dtypes = {DType::f32}});
  }
  const auto norm = [&](std::int64_t length, bool bench = false) {
    samples.push_back({.name = "gradient_norm of " + std::to_string(length),
                       .inputs = {frozen({length})},
                       .run =
                           [](std::span<const Tensor> in) {
                             const double value = gradient_norm(in[0].to(DType::f32).contiguous());
                             return std::vector{Tensor::full({}, value, DType::f64)};
                           },
                       .gradients = false,
                       .bench = bench,
                       .dtypes = {DType::f32}});
  };
  for (const std::int64_t length : {0, 1, 131, 8192, 100003}) norm(length);
  norm(std::int64_t{1} << 22, true);
  return samples;
}

}  // namespace wick
