#include "ops/samples.h"

namespace wick {

std::vector<OpSample> rope_append_samples() {
  std::vector<OpSample> samples;
  struct Case {
    std::int64_t tokens, heads, kv_heads, d, capacity;
    std::int32_t end;
    bool bench = false;
  };
  const Case cases[] = {{0, 2, 1, 4, 3, 2},
                        {1, 1, 1, 2, 1, 1},
                        {1, 4, 2, 16, 9, 1},
                        {1, 14, 2, 64, 9, 6},
                        {3, 3, 3, 6, 9, 9},
                        {5, 6, 2, 34, 8, 7},
                        {2, 2, 1, 0, 4, 3},
                        {7, 8, 4, 24, 20, 20},
                        {1, 32, 8, 64, 256, 200, true},
                        {512, 32, 8, 64, 2048, 1024, true}};
  for (const Case& c : cases) {
    const auto heads = [&](std::int64_t count) { return normal({c.tokens, count, c.d}); };
    const Shape cache = {c.capacity, c.kv_heads, c.d};
    const SampleInput angles = table({c.capacity + 2, c.d / 2});
    samples.push_back({.name = to_string(Shape{c.tokens, c.heads, c.kv_heads, c.d}) + " to " + std::to_string(c.end),
                       .inputs = {heads(c.heads), heads(c.kv_heads), heads(c.kv_heads), angles, angles, fixed({c.end}),
                                  normal(cache), normal(cache)},
                       .run =
                           [](std::span<const Tensor> in) {
                             const Tensor keys = in[6].clone();
                             const Tensor values = in[7].clone();
                             const Tensor q =
                                 rope_append(in[0], in[1], in[2], in[3], in[4], in[5].contiguous(), keys, values);
                             return std::vector{q, keys, values};
                           },
                       .gradients = false,
                       .bench = c.bench});
  }
  // q, k and v of one fused projection: 4 and 2 heads of 16.
  samples.push_back(
      {.name = "slices of a fused projection",
       .inputs = {normal({2, 128}), table({9, 8}), table({9, 8}), fixed({8}), normal({8, 2, 16}), normal({8, 2, 16})},
       .run =
           [](std::span<const Tensor> in) {
             const std::vector<Tensor> parts = split(in[0], -1, std::vector<std::int64_t>{64, 32, 32});
             const Tensor keys = in[4].clone();
             const Tensor values = in[5].clone();
             const Tensor q =
                 rope_append(reshape(parts[0], {2, 4, 16}), reshape(parts[1], {2, 2, 16}),
                             reshape(parts[2], {2, 2, 16}), in[1], in[2], in[3].contiguous(), keys, values);
             return std::vector{q, keys, values};
           },
       .gradients = false});
  return samples;
}

}  // namespace wick
