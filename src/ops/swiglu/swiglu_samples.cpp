#include "ops/samples.h"

namespace wick {

std::vector<OpSample> swiglu_samples() {
  std::vector<OpSample> samples;
  const auto run = [](std::span<const Tensor> in) { return std::vector{swiglu(in[0], in[1])}; };
  const auto fused_buffer = [](std::span<const Tensor> in) {
    const std::int64_t n = in[0].size(-1) / 2;
    const std::vector<Tensor> parts = split(in[0], -1, std::vector<std::int64_t>{n, n});
    return std::vector{swiglu(parts[0], parts[1])};
  };
  for (const Shape& shape : {Shape{0, 8}, {1, 1}, {3, 7}, {2, 3, 64}, {5, 257}, {19}}) {
    samples.push_back({.name = to_string(shape), .inputs = {normal(shape), normal(shape)}, .run = run});
  }
  samples.push_back({.name = "large values", .inputs = {normal({4, 48}, 60.0), normal({4, 48})}, .run = run});
  samples.push_back({.name = "frozen up", .inputs = {normal({4, 33}), frozen({4, 33})}, .run = run});
  samples.push_back({.name = "frozen gate", .inputs = {frozen({4, 33}), normal({4, 33})}, .run = run});
  for (const Shape& shape : {Shape{0, 6}, {1, 2}, {5, 66}, {2, 3, 40}}) {
    samples.push_back({.name = "one buffer " + to_string(shape), .inputs = {normal(shape)}, .run = fused_buffer});
  }
  samples.push_back(
      {.name = "one buffer, up first", .inputs = {normal({3, 30})}, .run = [](std::span<const Tensor> in) {
         const std::vector<Tensor> parts = split(in[0], -1, std::vector<std::int64_t>{15, 15});
         return std::vector{swiglu(parts[1], parts[0])};
       }});
  samples.push_back({.name = "bordered",
                     .inputs = {normal({2, 3, 24}), normal({2, 3, 24})},
                     .run = [](std::span<const Tensor> in) { return std::vector{swiglu(in[0], in[1], 16)}; }});
  samples.push_back(
      {.name = "[2048, 4864]", .inputs = {normal({2048, 4864}), normal({2048, 4864})}, .run = run, .bench = true});
  samples.push_back(
      {.name = "one buffer [2048, 9728]", .inputs = {normal({2048, 9728})}, .run = fused_buffer, .bench = true});
  return samples;
}

}  // namespace wick
