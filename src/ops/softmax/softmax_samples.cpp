#include <limits>

#include "ops/samples.h"

namespace wick {

std::vector<OpSample> softmax_samples() {
  std::vector<OpSample> samples;
  const auto run = [](std::span<const Tensor> in) { return std::vector{softmax(in[0])}; };
  for (const Shape& shape : {Shape{0, 8}, {4, 0}, {1, 1}, {3, 7}, {2, 3, 64}, {5, 257}, {33, 40}, {19}}) {
    samples.push_back({.name = to_string(shape), .inputs = {normal(shape)}, .run = run});
  }
  samples.push_back({.name = "large values", .inputs = {normal({4, 48}, 100.0)}, .run = run});
  // As an attention mask makes them.
  samples.push_back(
      {.name = "masked", .inputs = {normal({3, 5}), fixed({0, 1, 1, 0, 1})}, .run = [](std::span<const Tensor> in) {
         return std::vector{softmax(where(in[1], in[0], -std::numeric_limits<double>::infinity()))};
       }});
  for (const Shape& shape : {Shape{2048, 1024}, {512, 32768}}) {
    samples.push_back({.name = to_string(shape), .inputs = {normal(shape)}, .run = run, .bench = true});
  }
  return samples;
}

}  // namespace wick
