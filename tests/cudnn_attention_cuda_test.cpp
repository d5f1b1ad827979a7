// What cuDNN is not asked for. Needs neither a GPU nor the library.
#include "backend/cuda/cudnn_attention.h"

#include <gtest/gtest.h>

namespace wick::cuda {
namespace {

constexpr int kHopper = 90;

// Packed sequences of q, k and v side by side in one matrix; dk and dv beside dq, or matrices of their own.
AttentionShape packed(std::int64_t heads, std::int64_t kv_heads, bool own_gradients) {
  AttentionShape s;
  s.packed = true;
  s.sequences = 4;
  s.longest = 100;
  s.rows = 300;
  s.heads = heads;
  s.kv_heads = kv_heads;
  s.head_dim = 96;
  s.dtype = DType::bf16;
  s.causal = true;
  const HeadStrides stacked{(heads + 2 * kv_heads) * 96, 96};
  s.q = s.k = s.v = s.dq = s.dk = s.dv = stacked;
  s.y = s.dy = {heads * 96, 96};
  if (own_gradients) s.dk = s.dv = {kv_heads * 96, 96};
  return s;
}

TEST(CudnnAttention, GradientsOfOtherRowsThanTheKeysNeedANewerLibrary) {
  const AttentionShape apart = packed(6, 2, true);
  EXPECT_STREQ(attention_refusal(apart, true, kHopper, 91400),
               "packed, grouped heads whose k or v has another row stride than dk or dv need cuDNN 9.19");
  EXPECT_EQ(attention_refusal(apart, true, kHopper, 91900), nullptr);
  EXPECT_EQ(attention_refusal(apart, false, kHopper, 91400), nullptr);
  EXPECT_EQ(attention_refusal(packed(6, 2, false), true, kHopper, 91400), nullptr);
  EXPECT_EQ(attention_refusal(packed(6, 6, true), true, kHopper, 91400), nullptr);
  AttentionShape dense = apart;
  dense.packed = false;
  dense.sequences = 2;
  dense.longest = 128;
  dense.rows = 256;
  EXPECT_EQ(attention_refusal(dense, true, kHopper, 91400), nullptr);
}

TEST(CudnnAttention, TakesPackedSequencesOnHopperAlone) {
  const AttentionShape s = packed(6, 2, false);
  EXPECT_EQ(attention_refusal(s, true, kHopper, 91900), nullptr);
  EXPECT_NE(attention_refusal(s, false, 80, 91900), nullptr);
  EXPECT_NE(attention_refusal(s, true, 100, 91900), nullptr);
}

}  // namespace
}  // namespace wick::cuda
