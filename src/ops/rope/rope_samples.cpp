#include "ops/samples.h"

namespace wick {

std::vector<OpSample> rope_samples() {
  std::vector<OpSample> samples;
  const auto with_offset = [](std::int64_t offset) {
    return [offset](std::span<const Tensor> in) { return std::vector{rope(in[0], in[1], in[2], offset)}; };
  };
  const auto with_positions = [](std::span<const Tensor> in) { return std::vector{rope(in[0], in[1], in[2], in[3])}; };
  const auto half = [](const Shape& shape) { return shape[2] / 2; };
  for (const Shape& shape : {Shape{0, 2, 8}, {1, 1, 2}, {3, 2, 6}, {5, 0, 4}, {2, 3, 0}, {7, 3, 64}, {4, 1, 34}}) {
    samples.push_back({.name = "offset 2 " + to_string(shape),
                       .inputs = {normal(shape), table({9, half(shape)}), table({9, half(shape)})},
                       .run = with_offset(2)});
    if (shape[0] == 0) continue;
    samples.push_back(
        {.name = "positions " + to_string(shape),
         .inputs = {normal(shape), table({9, half(shape)}), table({9, half(shape)}), indices({shape[0]}, 9)},
         .run = with_positions});
  }
  samples.push_back({.name = "no positions",
                     .inputs = {normal({0, 2, 8}), table({9, 4}), table({9, 4}), fixed({})},
                     .run = with_positions});
  samples.push_back({.name = "offset 0, as many tokens as positions",
                     .inputs = {normal({6, 2, 10}), table({6, 5}), table({6, 5})},
                     .run = with_offset(0)});
  // Queries of a fused [tokens, (heads + 2 kv_heads) d] projection: 4 heads and 2 kv heads of 16.
  samples.push_back({.name = "slice of a fused projection",
                     .inputs = {normal({5, 128}), table({9, 8}), table({9, 8}), fixed({0, 1, 2, 0, 1})},
                     .run = [](std::span<const Tensor> in) {
                       const std::vector<Tensor> parts = split(in[0], -1, std::vector<std::int64_t>{64, 32, 32});
                       const Tensor q = rope(reshape(parts[0], {5, 4, 16}), in[1], in[2], in[3]);
                       const Tensor k = rope(reshape(parts[1], {5, 2, 16}), in[1], in[2], in[3]);
                       return std::vector{q, k};
                     }});
  // In place, on a value that nobody else reads.
  samples.push_back(
      {.name = "in place",
       .inputs = {normal({5, 3, 8}), table({9, 4}), table({9, 4}), fixed({0, 1, 2, 0, 8})},
       .run = [](std::span<const Tensor> in) { return std::vector{rope_(mul(in[0], 2.0), in[1], in[2], in[3])}; }});
  samples.push_back({.name = "in place, in a fused projection",
                     .inputs = {normal({5, 128}), table({9, 8}), table({9, 8}), fixed({0, 1, 2, 0, 1})},
                     .run = [](std::span<const Tensor> in) {
                       const std::vector<Tensor> parts = split(mul(in[0], 2.0), -1, std::vector<std::int64_t>{96, 32});
                       const Tensor turned = rope_(reshape(parts[0], {5, 6, 16}), in[1], in[2], in[3]);
                       const std::vector<Tensor> qk = split(turned, 1, std::vector<std::int64_t>{4, 2});
                       return std::vector{mul(qk[0], qk[0]), mul(qk[1], 3.0), parts[1]};
                     }});
  samples.push_back({.name = "[2048, 14, 64]",
                     .inputs = {normal({2048, 14, 64}), table({2048, 32}), table({2048, 32}), indices({2048}, 2048)},
                     .run = with_positions,
                     .bench = true});
  samples.push_back({.name = "[2048, 32, 128]",
                     .inputs = {normal({2048, 32, 128}), table({2048, 64}), table({2048, 64})},
                     .run = with_offset(0),
                     .bench = true});
  return samples;
}

}  // namespace wick
