#include "ops/samples.h"

namespace wick {
namespace {

using Inputs = std::span<const Tensor>;
using Outputs = std::vector<Tensor>;

}  // namespace

std::vector<OpSample> primitive_samples() {
  std::vector<OpSample> samples;
  const auto unary = [&](const char* name, SampleInput input, Tensor (*op)(const Tensor&)) {
    samples.push_back(
        {.name = name, .inputs = {std::move(input)}, .run = [op](Inputs in) { return Outputs{op(in[0])}; }});
  };
  unary("exp", normal({3, 5}), [](const Tensor& x) { return exp(x); });
  unary("log", positive({3, 5}), [](const Tensor& x) { return log(x); });
  unary("sqrt", positive({3, 5}), [](const Tensor& x) { return sqrt(x); });
  unary("tanh", normal({3, 5}), [](const Tensor& x) { return tanh(x); });
  unary("erf", normal({3, 5}), [](const Tensor& x) { return erf(x); });
  unary("sigmoid", normal({3, 5}), [](const Tensor& x) { return sigmoid(x); });
  unary("add scalar", normal({3, 5}), [](const Tensor& x) { return add(x, 2.5); });
  unary("mul scalar", normal({3, 5}), [](const Tensor& x) { return mul(x, -1.5); });
  unary("sum last", normal({3, 5}), [](const Tensor& x) { return sum(x, -1); });
  unary("sum middle kept", normal({3, 4, 5}), [](const Tensor& x) { return sum(x, 1, true); });
  unary("sum all", normal({3, 4}), [](const Tensor& x) { return sum(x); });
  unary("sum of nothing", normal({3, 0}), [](const Tensor& x) { return sum(x, 1); });
  unary("mean", normal({3, 5}), [](const Tensor& x) { return mean(x, 0); });
  unary("reshape", normal({3, 4}), [](const Tensor& x) { return reshape(x, {2, -1}); });
  unary("permute", normal({2, 3, 4}), [](const Tensor& x) { return permute(x, {2, 0, 1}); });
  unary("transpose then reshape", normal({3, 4}), [](const Tensor& x) { return reshape(transpose(x, 0, 1), {12}); });
  unary("slice", normal({3, 6}), [](const Tensor& x) { return slice(x, 1, 2, 3); });
  unary("expand", normal({3, 1}), [](const Tensor& x) { return expand(x, {2, 3, 4}); });
  unary("dropout", normal({3, 7}),
        [](const Tensor& x) { return dropout(x, {.p = 0.4, .seed = 5, .module = 2, .pass = 3}); });
  unary("used twice", normal({3, 4}), [](const Tensor& x) { return mul(add(x, exp(x)), x); });
  samples.push_back({.name = "max",
                     .inputs = {normal({3, 5})},
                     .run = [](Inputs in) { return Outputs{max(in[0], -1)}; },
                     .gradients = false});
  samples.push_back({.name = "split", .inputs = {normal({3, 6})}, .run = [](Inputs in) {
                       return split(in[0], 1, std::vector<std::int64_t>{1, 0, 3, 2});
                     }});
  samples.push_back({.name = "split, one part used", .inputs = {normal({3, 6})}, .run = [](Inputs in) {
                       return Outputs{split(in[0], 1, std::vector<std::int64_t>{1, 3, 2})[1]};
                     }});
  samples.push_back({.name = "concat",
                     .inputs = {normal({2, 3}), normal({2, 1}), normal({2, 4})},
                     .run = [](Inputs in) { return Outputs{concat(in, -1)}; }});
  const auto binary = [&](const char* name, SampleInput a, SampleInput b, Tensor (*op)(const Tensor&, const Tensor&)) {
    samples.push_back({.name = name, .inputs = {std::move(a), std::move(b)}, .run = [op](Inputs in) {
                         return Outputs{op(in[0], in[1])};
                       }});
  };
  binary("add", normal({3, 5}), normal({5}), [](const Tensor& a, const Tensor& b) { return add(a, b); });
  binary("sub", normal({3, 1}), normal({3, 5}), [](const Tensor& a, const Tensor& b) { return sub(a, b); });
  binary("mul", normal({2, 3, 5}), normal({3, 1}), [](const Tensor& a, const Tensor& b) { return mul(a, b); });
  binary("div", normal({3, 5}), positive({1, 5}), [](const Tensor& a, const Tensor& b) { return div(a, b); });
  binary("add of nothing", normal({0, 5}), normal({5}), [](const Tensor& a, const Tensor& b) { return add(a, b); });
  binary("matmul", normal({3, 5}), normal({5, 4}), [](const Tensor& a, const Tensor& b) { return matmul(a, b); });
  binary("matmul batched", normal({2, 3, 5}), normal({2, 5, 4}),
         [](const Tensor& a, const Tensor& b) { return matmul(a, b); });
  binary("matmul broadcast", normal({2, 2, 3, 5}), normal({2, 5, 1}),
         [](const Tensor& a, const Tensor& b) { return matmul(a, b); });
  binary("matmul transposed", normal({3, 5}), normal({4, 5}),
         [](const Tensor& a, const Tensor& b) { return matmul(a, transpose(b, 0, 1)); });
  binary("matmul of no terms", normal({3, 0}), normal({0, 4}),
         [](const Tensor& a, const Tensor& b) { return matmul(a, b); });
  binary("matmul of ones", normal({1, 1}), normal({1, 1}),
         [](const Tensor& a, const Tensor& b) { return matmul(a, b); });
  binary("gather_rows", normal({4, 3}), fixed({3, 0, 3}),
         [](const Tensor& a, const Tensor& b) { return gather_rows(a, b); });
  binary("gather_columns", normal({3, 4}), fixed({3, 0, 3}),
         [](const Tensor& a, const Tensor& b) { return gather_columns(a, b); });
  binary("where", normal({3, 4}), fixed({1, 0, 0, 1}),
         [](const Tensor& a, const Tensor& b) { return where(b, a, -2.0); });
  return samples;
}

}  // namespace wick
