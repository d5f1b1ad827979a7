#include "ops/samples.h"

namespace wick {

std::vector<OpSample> embedding_samples() {
  std::vector<OpSample> samples;
  const auto run = [](std::span<const Tensor> in) { return std::vector{embedding(in[0], in[1])}; };
  const auto add_sample = [&](const std::string& name, SampleInput values, SampleInput ids, bool bench = false) {
    samples.push_back({.name = name, .inputs = {std::move(values), std::move(ids)}, .run = run, .bench = bench});
  };
  add_sample("no ids", normal({5, 8}), fixed({}));
  add_sample("no columns", normal({5, 0}), fixed({1, 4}));
  add_sample("[1, 1]", normal({1, 1}), fixed({0, 0}));
  add_sample("repeated ids", normal({7, 33}), fixed({6, 0, 3, 6, 6, 0, 5}));
  add_sample("one id 200 times", normal({3, 5}), fixed(std::vector<std::int32_t>(200, 1)));
  add_sample("3000 ids of 50", normal({60, 9}), indices({3000}, 50));
  add_sample("[257, 40]", normal({257, 40}), indices({100}, 257));
  add_sample("frozen", frozen({31, 16}), indices({9}, 31));
  add_sample("[32000, 1024]", frozen({32000, 1024}), indices({2048}, 32000), true);
  add_sample("trained [32000, 1024]", normal({32000, 1024}), indices({2048}, 32000), true);
  return samples;
}

}  // namespace wick
