#include "ops/samples.h"

namespace wick {

std::vector<OpSample> linear_samples() {
  std::vector<OpSample> samples;
  const auto plain = [&](const Shape& x, std::int64_t n, bool bench = false) {
    samples.push_back({.name = to_string(x) + " to " + std::to_string(n),
                       .inputs = {normal(x), normal({n, x[-1]}), normal({n})},
                       .run = [](std::span<const Tensor> in) { return std::vector{linear(in[0], in[1], in[2])}; },
                       .bench = bench});
  };
  for (const Shape& x : {Shape{0, 4}, {3, 0}, {1, 1}, {5, 7}, {2, 3, 8}, {33, 20}}) plain(x, 5);
  plain({4, 6}, 1);
  plain({1024, 896}, 4864, true);
  samples.push_back({.name = "without bias, frozen weight",
                     .inputs = {normal({4, 9}), frozen({6, 9})},
                     .run = [](std::span<const Tensor> in) { return std::vector{linear(in[0], in[1])}; }});
  return samples;
}

}  // namespace wick
