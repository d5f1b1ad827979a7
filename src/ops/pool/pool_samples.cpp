#include "ops/samples.h"

namespace wick {

std::vector<OpSample> pool_samples() {
  constexpr std::pair<Pooling, const char*> kModes[] = {{Pooling::mean, "mean"},
                                                        {Pooling::mean_sqrt, "mean_sqrt"},
                                                        {Pooling::cls, "cls"},
                                                        {Pooling::max, "max"},
                                                        {Pooling::last, "last"}};
  std::vector<OpSample> samples;
  for (const auto& [mode, name] : kModes) {
    const auto run = [mode](std::span<const Tensor> in) { return std::vector{pool(in[0], in[1], mode)}; };
    const auto add = [&](const std::string& what, SampleInput hidden, std::vector<std::int32_t> offsets,
                         bool bench = false) {
      samples.push_back({.name = std::string(name) + " " + what,
                         .inputs = {std::move(hidden), fixed(std::move(offsets))},
                         .run = run,
                         .bench = bench});
    };
    add("no tokens", normal({0, 4}), {0, 0});
    add("no columns", normal({3, 0}), {0, 2, 3});
    add("[1, 1]", normal({1, 1}), {0, 1});
    add("one sequence", normal({9, 33}), {0, 9});
    add("sequences of 0 to 40", normal({62, 17}), {0, 0, 1, 1, 3, 20, 60, 62, 62});
    add("frozen", frozen({5, 8}), {0, 2, 5});
    std::vector<std::int32_t> offsets;
    for (std::int32_t at = 0; at <= 8192; at += 64) offsets.push_back(at);
    add("[8192, 384] of 128", normal({8192, 384}), offsets, true);
  }
  return samples;
}

}  // namespace wick
