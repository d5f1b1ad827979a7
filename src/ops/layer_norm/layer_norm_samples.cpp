#include "ops/samples.h"

namespace wick {

std::vector<OpSample> layer_norm_samples() {
  std::vector<OpSample> samples;
  const auto run = [](double eps) {
    return [eps](std::span<const Tensor> in) { return std::vector{layer_norm(in[0], in[1], in[2], eps)}; };
  };
  const auto no_bias = [](std::span<const Tensor> in) { return std::vector{layer_norm(in[0], in[1], {}, 1e-5)}; };
  for (const Shape& shape : {Shape{0, 8}, {4, 0}, {1, 1}, {3, 7}, {2, 3, 64}, {5, 257}, {33, 40}}) {
    // One column: y is the bias, whatever x and weight are.
    const bool flat = shape[-1] == 1;
    samples.push_back({.name = to_string(shape),
                       .inputs = {flat ? frozen(shape) : normal(shape), flat ? frozen({1}) : normal({shape[-1]}),
                                  normal({shape[-1]})},
                       .run = run(1e-5)});
  }
  samples.push_back({.name = "rank 1", .inputs = {normal({19}), normal({19}), normal({19})}, .run = run(1e-5)});
  samples.push_back({.name = "no bias", .inputs = {normal({5, 33}), normal({33})}, .run = no_bias});
  samples.push_back(
      {.name = "frozen weight and bias", .inputs = {normal({4, 33}), frozen({33}), frozen({33})}, .run = run(1e-12)});
  samples.push_back(
      {.name = "frozen weight", .inputs = {normal({4, 33}), frozen({33}), normal({33})}, .run = run(1e-5)});
  samples.push_back({.name = "frozen x", .inputs = {frozen({40, 18}), normal({18}), normal({18})}, .run = run(1e-5)});
  samples.push_back(
      {.name = "large values", .inputs = {normal({4, 48}, 100.0), normal({48}), normal({48})}, .run = run(1e-5)});
  const auto with_residual = [](std::span<const Tensor> in) {
    return std::vector{layer_norm_residual(in[0], in[1], in[2], in.size() > 3 ? in[3] : Tensor(), 1e-5)};
  };
  for (const Shape& shape : {Shape{0, 8}, {4, 0}, {3, 7}, {2, 3, 64}, {5, 257}, {33, 40}}) {
    samples.push_back({.name = "residual " + to_string(shape),
                       .inputs = {normal(shape), normal(shape), normal({shape[-1]}), normal({shape[-1]})},
                       .run = with_residual});
  }
  samples.push_back(
      {.name = "residual, no bias", .inputs = {normal({5, 33}), normal({5, 33}), normal({33})}, .run = with_residual});
  samples.push_back({.name = "residual, frozen but for it",
                     .inputs = {frozen({4, 33}), normal({4, 33}), frozen({33}), frozen({33})},
                     .run = with_residual});
  samples.push_back({.name = "residual, all frozen",
                     .inputs = {frozen({7, 384}), frozen({7, 384}), frozen({384}), frozen({384})},
                     .run = with_residual});
  samples.push_back({.name = "residual [2048, 384]",
                     .inputs = {frozen({2048, 384}), frozen({2048, 384}), frozen({384}), frozen({384})},
                     .run = with_residual,
                     .bench = true});
  const auto of_tables = [](std::span<const Tensor> in) {
    return std::vector{embedding_norm(in[0], in[1], in[2], in[3], in[4], in[5], 1e-12)};
  };
  const auto tables = [&](const std::string& name, bool trained, std::int64_t vocabulary, std::int64_t tokens,
                          std::int64_t columns, bool bench = false) {
    const auto table = [&](const Shape& shape) { return trained ? normal(shape) : frozen(shape); };
    samples.push_back({.name = name,
                       .inputs = {table({vocabulary, columns}), indices({tokens}, vocabulary), table({16, columns}),
                                  indices({tokens}, 16), table({columns}), table({columns})},
                       .run = of_tables,
                       .bench = bench});
  };
  tables("tables, trained", true, 9, 13, 33);
  tables("tables", false, 31, 7, 24);
  tables("tables of 257 columns", false, 31, 7, 257);
  tables("tables, no tokens", false, 31, 0, 24);
  tables("tables [30522, 384]", false, 30522, 2048, 384, true);
  for (const Shape& shape : {Shape{2048, 384}, {2048, 4096}}) {
    samples.push_back({.name = to_string(shape),
                       .inputs = {normal(shape), frozen({shape[-1]}), frozen({shape[-1]})},
                       .run = run(1e-5),
                       .bench = true});
  }
  samples.push_back({.name = "trained [2048, 1024]",
                     .inputs = {normal({2048, 1024}), normal({1024}), normal({1024})},
                     .run = run(1e-5),
                     .bench = true});
  return samples;
}

}  // namespace wick
