#include "ops/samples.h"

namespace wick {

std::vector<OpSample> gelu_samples() {
  std::vector<OpSample> samples;
  for (const GeluKind kind : {GeluKind::exact, GeluKind::tanh}) {
    const std::string name = kind == GeluKind::exact ? "exact " : "tanh ";
    const auto run = [kind](std::span<const Tensor> in) { return std::vector{gelu(in[0], kind)}; };
    for (const Shape& shape : {Shape{}, {0, 8}, {1, 1}, {3, 7}, {2, 3, 64}, {5, 257}, {19}}) {
      samples.push_back({.name = name + to_string(shape), .inputs = {normal(shape)}, .run = run});
    }
    samples.push_back({.name = name + "large values", .inputs = {normal({6, 50}, 10.0)}, .run = run});
    samples.push_back({.name = name + "small values", .inputs = {normal({6, 50}, 1e-3)}, .run = run});
    samples.push_back({.name = name + "[2048, 1536]", .inputs = {normal({2048, 1536})}, .run = run, .bench = true});
  }
  return samples;
}

}  // namespace wick
