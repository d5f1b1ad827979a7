#include "ops/samples.h"

namespace wick {

std::vector<OpSample> l2_normalize_samples() {
  std::vector<OpSample> samples;
  const auto run = [](std::span<const Tensor> in) { return std::vector{l2_normalize(in[0])}; };
  for (const Shape& shape : {Shape{0, 8}, {4, 0}, {19}, {3, 7}, {2, 3, 64}, {5, 257}, {33, 384}}) {
    samples.push_back({.name = to_string(shape), .inputs = {normal(shape)}, .run = run});
  }
  // One column: y is 1 or -1 and its gradient 0.
  samples.push_back({.name = "[3, 1]", .inputs = {frozen({3, 1})}, .run = run});
  samples.push_back({.name = "large values", .inputs = {normal({4, 48}, 100.0)}, .run = run});
  samples.push_back({.name = "zeros", .inputs = {frozen({2, 9}, 0.0)}, .run = run});
  samples.push_back({.name = "[128, 384]", .inputs = {normal({128, 384})}, .run = run, .bench = true});
  return samples;
}

}  // namespace wick
