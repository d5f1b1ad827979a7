#include "ops/samples.h"

namespace wick {

std::vector<OpSample> rms_norm_samples() {
  std::vector<OpSample> samples;
  const auto plain = [&](const Shape& shape, bool bench = false) {
    // One column: x / |x| has no slope, so a large eps keeps the gradient from being all cancellation.
    const double eps = shape[-1] == 1 ? 0.5 : 1e-5;
    samples.push_back({.name = to_string(shape),
                       .inputs = {normal(shape), normal({shape[-1]})},
                       .run = [eps](std::span<const Tensor> in) { return std::vector{rms_norm(in[0], in[1], eps)}; },
                       .bench = bench});
  };
  for (const Shape& shape : {Shape{0, 8}, {1, 1}, {3, 7}, {2, 3, 64}, {5, 257}, {33, 40}}) plain(shape);
  for (const Shape& shape : {Shape{2048, 896}, {2048, 4096}}) plain(shape, true);
  samples.push_back({.name = "frozen weight",
                     .inputs = {normal({4, 33}), frozen({33})},
                     .run = [](std::span<const Tensor> in) { return std::vector{rms_norm(in[0], in[1], 1e-6)}; }});
  samples.push_back({.name = "large values",
                     .inputs = {normal({4, 48}, 100.0), normal({48})},
                     .run = [](std::span<const Tensor> in) { return std::vector{rms_norm(in[0], in[1], 1e-6)}; }});
  samples.push_back({.name = "bordered",
                     .inputs = {normal({5, 24}), normal({24})},
                     .run = [](std::span<const Tensor> in) { return std::vector{rms_norm(in[0], in[1], 1e-6, 16)}; }});
  // Queries and keys of a fused projection: heads of `n` whose tokens lie further apart, between other columns.
  const auto heads = [&](std::int64_t tokens, std::int64_t queries, std::int64_t keys, std::int64_t n,
                         bool bench = false) {
    const std::string what = to_string(Shape{tokens, queries + keys, n});
    samples.push_back(
        {.name = "heads of a fused projection " + what,
         .inputs = {normal({tokens, (queries + 2 * keys) * n}), normal({n}), frozen({n})},
         .run =
             [=](std::span<const Tensor> in) {
               const std::vector<Tensor> parts = split(reshape(in[0], {tokens, queries + 2 * keys, n}), 1,
                                                       std::vector<std::int64_t>{queries, keys, keys});
               return std::vector{rms_norm(parts[0], in[1], 1e-6), rms_norm(parts[1], in[2], 1e-6), parts[2]};
             },
         .bench = bench});
  };
  heads(5, 4, 2, 16);
  heads(37, 3, 1, 64);
  heads(1, 7, 2, 24);
  heads(9, 5, 3, 7);
  heads(2048, 16, 8, 128, true);
  samples.push_back(
      {.name = "heads before tokens",
       .inputs = {normal({3, 6, 16}), normal({16})},
       .run = [](std::span<const Tensor> in) { return std::vector{rms_norm(transpose(in[0], 0, 1), in[1], 1e-6)}; }});
  const auto with_residual = [](std::span<const Tensor> in) {
    const auto [sum, y] = rms_norm_residual(in[0], in[1], in[2], in[2].size(0) == 1 ? 0.5 : 1e-5);
    return std::vector{sum, y};
  };
  for (const Shape& shape : {Shape{1, 1}, {3, 7}, {2, 3, 64}, {6, 130}}) {
    samples.push_back({.name = "residual " + to_string(shape),
                       .inputs = {normal(shape), normal(shape), normal({shape[-1]})},
                       .run = with_residual});
  }
  samples.push_back({.name = "residual [2048, 2048]",
                     .inputs = {normal({2048, 2048}), normal({2048, 2048}), frozen({2048})},
                     .run = with_residual,
                     .bench = true});
  // Only one of the two results is used downstream.
  samples.push_back({.name = "residual, y only",
                     .inputs = {normal({3, 19}), normal({3, 19}), normal({19})},
                     .run = [](std::span<const Tensor> in) {
                       return std::vector{rms_norm_residual(in[0], in[1], in[2], 1e-5).second};
                     }});
  samples.push_back({.name = "residual, sum only",
                     .inputs = {normal({3, 19}), normal({3, 19}), frozen({19})},
                     .run = [](std::span<const Tensor> in) {
                       return std::vector{rms_norm_residual(in[0], in[1], in[2], 1e-5).first};
                     }});
  return samples;
}

}  // namespace wick
