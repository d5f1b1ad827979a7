#include "ops/samples.h"

namespace wick {
namespace {

std::function<std::vector<Tensor>(std::span<const Tensor>)> loss(const CrossEntropyOptions& options = {}) {
  return
      [options](std::span<const Tensor> in) { return std::vector{linear_cross_entropy(in[0], in[1], in[2], options)}; };
}

}  // namespace

std::vector<OpSample> linear_cross_entropy_samples() {
  std::vector<OpSample> samples;
  const auto add = [&](std::string name, SampleInput x, SampleInput weight, SampleInput labels,
                       const CrossEntropyOptions& options = {}) {
    samples.push_back({.name = std::move(name),
                       .inputs = {std::move(x), std::move(weight), std::move(labels)},
                       .run = loss(options)});
  };
  add("no tokens", normal({0, 8}), normal({5, 8}), indices({0}, 5));
  add("one token, one word", normal({1, 1}), normal({1, 1}), fixed({0}));
  add("one token", normal({1, 7}), normal({9, 7}), fixed({4}));
  add("odd", normal({5, 13}), normal({37, 13}), indices({5}, 37));
  add("smoothing", normal({5, 16}), normal({33, 16}), indices({5}, 33), {.label_smoothing = 0.1});
  add("some ignored", normal({6, 8}), normal({19, 8}), fixed({-100, 3, 18, -100, 0, -100}), {.label_smoothing = 0.2});
  add("all ignored", normal({3, 8}), normal({19, 8}), fixed({-100, -100, -100}));
  add("ignore index in the vocabulary", normal({4, 8}), normal({11, 8}), fixed({2, 0, 5, 2}), {.ignore_index = 2});
  add("chunks of 3", normal({8, 12}), normal({21, 12}), fixed({1, 20, -100, 4, 5, 4, -100, 9}),
      {.label_smoothing = 0.1, .chunk = 3});
  add("frozen head", normal({7, 24}), frozen({50, 24}), indices({7}, 50));
  add("frozen hidden states", frozen({7, 24}), normal({50, 24}), indices({7}, 50));
  add("large logits", normal({5, 16}, 5.0), normal({40, 16}, 3.0), indices({5}, 40));
  add("many words", normal({3, 6}), normal({40001, 6}), fixed({40000, 17, -100}), {.label_smoothing = 0.1});
  const auto log_probs = [](std::span<const Tensor> in) { return std::vector{token_log_probs(in[0], in[1], in[2])}; };
  for (const std::int64_t tokens : {0, 1, 6}) {
    samples.push_back({.name = "token_log_probs of " + std::to_string(tokens),
                       .inputs = {frozen({tokens, 20}), frozen({43, 20}), indices({tokens}, 43)},
                       .run = log_probs,
                       .gradients = false});
  }
  const auto bench = [&](std::string name, const Shape& x, const Shape& weight) {
    samples.push_back({.name = std::move(name),
                       .inputs = {normal(x), frozen(weight, 0.05), indices({x[0]}, weight[0])},
                       .run = loss(),
                       .bench = true});
  };
  bench("2048 x 576, 32000 words", {2048, 576}, {32000, 576});
  bench("512 x 896, 151936 words", {512, 896}, {151936, 896});
  return samples;
}

}  // namespace wick
