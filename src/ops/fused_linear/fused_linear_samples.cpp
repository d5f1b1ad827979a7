#include "ops/samples.h"

namespace wick {
namespace {

using Inputs = std::span<const Tensor>;

struct Around {
  const char* name;
  bool norm = false;
  bool swiglu = false;
  bool residual = false;
  std::int64_t border = 0;
  std::optional<GeluKind> gelu = {};
  bool after = false;
};

}  // namespace

std::vector<OpSample> fused_linear_samples() {
  std::vector<OpSample> samples;
  const Around all[] = {
      {.name = "plain"},
      {.name = "norm", .norm = true},
      {.name = "residual", .residual = true},
      {.name = "swiglu", .swiglu = true, .border = 16},
      {.name = "norm and swiglu", .norm = true, .swiglu = true},
      {.name = "everything", .norm = true, .swiglu = true, .residual = true},
      {.name = "gelu", .gelu = GeluKind::exact},
      {.name = "norm, gelu by tanh and residual", .norm = true, .residual = true, .gelu = GeluKind::tanh},
      {.name = "residual and norm after", .residual = true, .after = true},
      {.name = "everything but swiglu", .norm = true, .residual = true, .gelu = GeluKind::exact, .after = true}};
  const auto add = [&](const Around& around, std::int64_t tokens, std::int64_t k, std::int64_t n, bool bench = false) {
    const std::int64_t width = around.swiglu ? n / 2 : n;
    samples.push_back({.name = std::string(around.name) + " " + to_string(Shape{tokens, k, n}),
                       .inputs = {normal({tokens, k}), normal({n, k}, 0.3), normal({n}), positive({k}),
                                  normal({tokens, width}), positive({width}), normal({width})},
                       .run =
                           [=](Inputs in) {
                             const LoraBranch none{.out_features = n, .a = {}, .b = {}};
                             const LoraWeight weight(in[1], std::span(&none, 1));
                             return std::vector{fused_linear(in[0], weight, in[2], std::span(&none, 1),
                                                             {.norm = around.norm ? in[3] : Tensor(),
                                                              .eps = 1e-5,
                                                              .swiglu = around.swiglu,
                                                              .gelu = around.gelu,
                                                              .residual = around.residual ? in[4] : Tensor(),
                                                              .after = around.after ? in[5] : Tensor(),
                                                              .after_bias = around.after ? in[6] : Tensor(),
                                                              .after_eps = 1e-5,
                                                              .border = around.border})};
                           },
                       .gradients = false,
                       .bench = bench});
  };
  for (const Around& around : all) {
    add(around, 0, 8, 6);
    add(around, 1, 1, 2);
    add(around, 1, 72, 38);
    add(around, 8, 136, 50);
    add(around, 11, 24, 18);
  }
  // Weights that stay in shared memory, in one slice and in more.
  add({.name = "gelu", .gelu = GeluKind::exact}, 70, 64, 192);
  add({.name = "gelu", .gelu = GeluKind::exact}, 300, 384, 200 * 2 - 24);
  add({.name = "gelu by tanh", .gelu = GeluKind::tanh}, 64, 128, 384);
  add({.name = "plain"}, 333, 320, 384);
  // Rows that a block has whole.
  const Around after = {.name = "residual and norm after", .residual = true, .after = true};
  add(after, 70, 64, 384);
  add(after, 300, 320, 320);
  add(after, 2048, 1536, 384, true);
  add({.name = "gelu", .gelu = GeluKind::exact}, 2048, 384, 1536, true);
  add({.name = "norm", .norm = true}, 1, 896, 1152, true);
  add({.name = "norm and swiglu", .norm = true, .swiglu = true}, 1, 896, 9728, true);
  add({.name = "residual", .residual = true}, 1, 4864, 896, true);

  // Gate and up with an adapter each, and then one that reads what they hand on.
  for (const LoraLayout layout : {LoraLayout::separate, LoraLayout::bordered}) {
    for (const std::int64_t tokens : {1, 5}) {
      samples.push_back({.name = std::string(layout == LoraLayout::separate ? "adapters " : "adapters bordered ") +
                                 std::to_string(tokens),
                         .inputs = {normal({tokens, 16}), normal({48, 16}, 0.3), positive({16}), normal({4, 16}, 0.3),
                                    normal({24, 4}, 0.3), normal({3, 16}, 0.3), normal({24, 3}, 0.3),
                                    normal({16, 24}, 0.3), normal({2, 24}, 0.3), normal({16, 2}, 0.3), normal({16})},
                         .run =
                             [layout](Inputs in) {
                               const LoraBranch pair[] = {{24, in[3], in[4], 0.5}, {24, in[5], in[6], 2}};
                               const LoraBranch one{16, in[8], in[9], 1};
                               const LoraWeight gate_up(in[1], pair, layout);
                               const LoraWeight down(in[7], std::span(&one, 1), layout);
                               const Tensor x =
                                   fused_linear(in[0], gate_up, {}, pair,
                                                {.norm = in[2],
                                                 .eps = 1e-5,
                                                 .swiglu = true,
                                                 .border = layout == LoraLayout::bordered ? down.rank() : 0});
                               const Tensor y = fused_linear(x, down, in[10], std::span(&one, 1), {.residual = in[0]});
                               return std::vector{x.clone(), y};
                             },
                         .gradients = false});
    }
  }
  return samples;
}

}  // namespace wick
