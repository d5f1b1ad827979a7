#include "ops/samples.h"

namespace wick {
namespace {

using Inputs = std::span<const Tensor>;

// x through an op that hands it on in a buffer with spare columns, both ways.
Tensor through_border(const Tensor& x, std::int64_t border) {
  Tensor y = Tensor::bordered(x.shape(), border, x.dtype(), x.device());
  y.copy_from(x);
  record("through_border", {x}, {&y}, [border](std::span<const Tensor> dy, const std::vector<bool>&) {
    const Tensor dx = Tensor::bordered(dy[0].shape(), border, dy[0].dtype(), dy[0].device());
    dx.copy_from(dy[0]);
    return std::vector<Tensor>{dx};
  });
  return y;
}

}  // namespace

std::vector<OpSample> lora_linear_samples() {
  std::vector<OpSample> samples;
  const auto single = [&](std::int64_t tokens, std::int64_t k, std::int64_t n, std::int64_t r, LoraLayout layout,
                          bool bench = false) {
    samples.push_back(
        {.name = to_string(Shape{tokens, k, n, r}) + (layout == LoraLayout::bordered ? " bordered" : " separate"),
         .inputs = {normal({tokens, k}), frozen({n, k}), frozen({n}), normal({r, k}), normal({n, r})},
         .run =
             [=](Inputs in) {
               const LoraBranch branch{n, in[3], in[4], 0.5};
               const LoraWeight weight(in[1], std::span(&branch, 1), layout);
               if (layout == LoraLayout::separate)
                 return std::vector{lora_linear(in[0], weight, in[2], std::span(&branch, 1))};
               const Tensor y = lora_linear(through_border(in[0], weight.rank()), weight, in[2], std::span(&branch, 1));
               return std::vector{through_border(y, weight.rank())};
             },
         .bench = bench});
  };
  for (const LoraLayout layout : {LoraLayout::separate, LoraLayout::bordered}) {
    single(0, 4, 3, 2, layout);
    single(1, 1, 1, 1, layout);
    single(5, 7, 9, 3, layout);
    single(33, 24, 17, 16, layout);
    single(2048, 896, 896, 16, layout, true);
    single(2048, 896, 4864, 16, layout, true);
  }
  // q, k, v of grouped-query attention, k without an adapter, ranks that differ.
  for (const LoraLayout layout : {LoraLayout::separate, LoraLayout::bordered}) {
    samples.push_back(
        {.name = layout == LoraLayout::separate ? "siblings" : "siblings bordered",
         .inputs = {normal({6, 10}), frozen({16, 10}), normal({3, 10}), normal({8, 3}), normal({2, 10}),
                    normal({4, 2})},
         .run = [layout](Inputs in) {
           const LoraBranch branches[] = {{8, in[2], in[3], 2.0}, {4, {}, {}, 1.0}, {4, in[4], in[5], 0.25}};
           const LoraWeight weight(in[1], branches, layout);
           const Tensor x = layout == LoraLayout::bordered ? through_border(in[0], weight.rank()) : in[0];
           return split(lora_linear(x, weight, {}, branches), 1, std::vector<std::int64_t>{8, 4, 4});
         }});
  }
  samples.push_back(
      {.name = "aligned siblings bordered",
       .inputs = {normal({40, 16}), frozen({80, 16}), normal({3, 16}), normal({40, 3}), normal({20, 16}),
                  normal({24, 20})},
       .run = [](Inputs in) {
         const LoraBranch branches[] = {{40, in[2], in[3], 2.0}, {16, {}, {}, 1.0}, {24, in[4], in[5], 0.25}};
         const LoraWeight weight(in[1], branches, LoraLayout::bordered);
         const Tensor x = through_border(in[0], weight.rank());
         return split(lora_linear(x, weight, {}, branches), 1, std::vector<std::int64_t>{40, 16, 24});
       }});
  samples.push_back({.name = "a border that another reader claimed",
                     .inputs = {normal({6, 10}), frozen({4, 10}), normal({3, 10}), normal({4, 3})},
                     .run = [](Inputs in) {
                       const LoraBranch branch{4, in[2], in[3], 2.0};
                       const LoraWeight weight(in[1], std::span(&branch, 1), LoraLayout::bordered);
                       const Tensor x = through_border(in[0], weight.rank());
                       return std::vector{lora_linear(x, weight, {}, std::span(&branch, 1)),
                                          lora_linear(x, weight, {}, std::span(&branch, 1))};
                     }});
  samples.push_back({.name = "an input made again in backward",
                     .inputs = {normal({6, 16}), frozen({24, 16}), normal({3, 16}), normal({24, 3})},
                     .run = [](Inputs in) {
                       const LoraBranch branch{24, in[2], in[3], 2.0};
                       const LoraWeight weight(in[1], std::span(&branch, 1), LoraLayout::bordered);
                       const auto again = [x = in[0].detach()] { return mul(x, 2.0); };
                       const Tensor x = through_border(mul(in[0], 2.0), weight.rank());
                       return std::vector{lora_linear(x, weight, {}, std::span(&branch, 1), {}, again)};
                     }});
  samples.push_back({.name = "dropout",
                     .inputs = {normal({6, 10}), frozen({4, 10}), normal({3, 10}), normal({4, 3})},
                     .run = [](Inputs in) {
                       const LoraBranch branch{4, in[2], in[3], 2.0};
                       const LoraWeight weight(in[1], std::span(&branch, 1));
                       const Dropout half{.p = 0.5, .seed = 9, .module = 1, .pass = 4};
                       return std::vector{lora_linear(in[0], weight, {}, std::span(&branch, 1), half)};
                     }});
  samples.push_back({.name = "frozen input",
                     .inputs = {frozen({6, 10}), frozen({4, 10}), normal({3, 10}), normal({4, 3})},
                     .run = [](Inputs in) {
                       const LoraBranch branch{4, in[2], in[3], 2.0};
                       const LoraWeight weight(in[1], std::span(&branch, 1));
                       return std::vector{lora_linear(in[0], weight, {}, std::span(&branch, 1))};
                     }});
  return samples;
}

}  // namespace wick
