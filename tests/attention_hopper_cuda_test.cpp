// Attention for Hopper by itself, so small that compute-sanitizer can watch it and so large that each buffer is used
// again; attention_bench has more shapes. Against float64 on the host.
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "hopper_kernel.h"
#include "op_matrix.h"
#include "ops/attention/attention_cuda.h"
#include "ops/samples.h"

namespace wick::testing {
namespace {

struct Case {
  const char* name;
  std::int64_t tokens, heads, kv_heads, d;
  std::vector<std::int32_t> offsets;
  std::int64_t window = 0;
};

void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

// So many sequences of two tokens that a block has several tiles.
std::vector<std::int32_t> pairs(std::int32_t count) {
  std::vector<std::int32_t> offsets;
  for (std::int32_t i = 0; i <= count; ++i) offsets.push_back(2 * i);
  return offsets;
}

class AttentionHopper : public HopperKernel, public ::testing::WithParamInterface<Case> {};

TEST_P(AttentionHopper, MatchesSumsInDouble) {
  const Case& c = GetParam();
  const DType dtype = DType::bf16;
  const Tensor q = random({c.tokens, c.heads, c.d}, dtype, 1.5);
  const Tensor k = random({c.tokens, c.kv_heads, c.d}, dtype, 1.5);
  const Tensor v = random({c.tokens, c.kv_heads, c.d}, dtype, 1.5);
  const Tensor dy = random({c.tokens, c.heads, c.d}, dtype, 1.5);
  const Tensor offsets = Tensor::from(c.offsets, {static_cast<std::int64_t>(c.offsets.size())});
  const FusedScope composite(false);
  const OpSample sample = {
      .name = c.name, .inputs = {normal({}), normal({}), normal({})}, .run = [&](std::span<const Tensor> in) {
        return std::vector<Tensor>{attention(in[0], in[1], in[2], {.window = c.window, .query_offsets = offsets})};
      }};
  const RunResult expected = run_sample(sample, {wide(q), wide(k), wide(v)}, {wide(dy)});

  const Tensor on_device = offsets.to(device_);
  const AttentionLayout layout{.scale = 1 / std::sqrt(static_cast<float>(c.d)),
                               .causal = true,
                               .window = c.window,
                               .query_offsets = on_device,
                               .key_offsets = on_device};
  const auto like = [&](const Tensor& t) { return Tensor::empty(t.shape(), dtype, device_); };
  const Tensor y = like(q);
  const Tensor lse = Tensor::empty({c.heads, c.tokens}, DType::f32, device_);
  const Tensor dq = like(q);
  const Tensor dk = like(k);
  const Tensor dv = like(v);
  ASSERT_EQ(cuda::attention_forward_hopper(q, k, v, layout, y, lse), nullptr);
  ASSERT_EQ(cuda::attention_backward_hopper(dy, q, k, v, y, lse, layout, dq, dk, dv), nullptr);
  EXPECT_LE(relative_error(y.to(Device::cpu()), expected.outputs[0]), 1e-2);
  EXPECT_LE(relative_error(dq.to(Device::cpu()), expected.grads[0]), 2e-2);
  EXPECT_LE(relative_error(dk.to(Device::cpu()), expected.grads[1]), 2e-2);
  EXPECT_LE(relative_error(dv.to(Device::cpu()), expected.grads[2]), 2e-2);
}

INSTANTIATE_TEST_SUITE_P(Shapes, AttentionHopper,
                         ::testing::Values(Case{"heads_of_64", 651, 2, 1, 64, {0, 651}},
                                           Case{"heads_of_128", 400, 2, 1, 128, {0, 400}},
                                           Case{"packed_window", 300, 2, 1, 64, {0, 1, 1, 131, 300}, 70},
                                           Case{"many_sequences", 600, 1, 1, 64, pairs(300)},
                                           Case{"many_sequences_of_128", 600, 1, 1, 128, pairs(300)}),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace wick::testing
