#pragma once

#include "ops/kernel_table.h"

namespace wick {

/// Up to this many tokens in a batch's longest sequence a device may have a kernel for short ones, which sums in
/// another order.
inline constexpr std::int64_t kShortSequence = 128;

/// What of AttentionOptions kernels need, resolved: scale is never 0, offsets are i32, dense and valid.
struct AttentionLayout {
  float scale;
  bool causal;
  std::int64_t window;   ///< 0: all
  Tensor query_offsets;  ///< i32 [sequences + 1]
  Tensor key_offsets;    ///< i32 [sequences + 1]
  /// Where every sequence has as many keys as queries, how many the longest has, or more; 0: not known to the host.
  std::int64_t longest = 0;
  Tensor bias = {};  ///< f32 [heads, 2 reach + 1] (f64 for f64 q), contiguous; undefined: none
};

/// q [tokens, heads, d], k and v [key_tokens, kv_heads, d], each with any strides of its first two dimensions and dense
/// d; y [tokens, heads, d] contiguous; lse [heads, tokens] f32 (undefined: not wanted) = log(sum(exp(scale * q·k)))
/// over the keys a query sees, -inf where there is none: saved for backward.
using AttentionForward = Declined(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionLayout& layout,
                                  const Tensor& y, const Tensor& lse);
/// The gradients of q, k and v (strides as theirs may be, any of them undefined: not wanted); dy as q, y and lse as
/// forward left them.
using AttentionBackward = Declined(const Tensor& dy, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& y,
                                   const Tensor& lse, const AttentionLayout& layout, const Tensor& dq, const Tensor& dk,
                                   const Tensor& dv);

/// attention_append() of one token: q as in AttentionForward, k and v [1, kv_heads, d] likewise; cos and sin f32,
/// dense; keys and values dense; y as in AttentionForward. One sequence, whose end is checked on the host only.
/// at_rest: see attention_append().
using AttentionAppend = Declined(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& cos,
                                 const Tensor& sin, const AttentionLayout& layout, const Tensor& keys,
                                 const Tensor& values, bool at_rest, const Tensor& y);

/// For a fixed order of sums cuDNN's backward keeps scores of its dtype, whole, in its workspace: of as many key heads
/// at once as fit into 512 MiB, a divisor of their number, or 0 when not one does (our own kernel keeps none).
struct KeptScores {
  std::int64_t key_heads = 0;
  std::int64_t bytes = 0;
};
/// `places`: sequences times the longest one's length.
KeptScores kept_scores(std::int64_t heads, std::int64_t kv_heads, std::int64_t places, std::int64_t longest);

/// A training batch's attention in one layer. `longest`: tokens of its longest sequence; 0: unknown to the host.
struct AttentionSizes {
  DType dtype = DType::f32;
  std::int64_t heads = 0, kv_heads = 0, head_dim = 0;
  std::int64_t tokens = 0, longest = 0;
};
/// Bytes that its backward holds beside what it returns, for a memory plan. A build without CUDA plans for a GPU where
/// cuDNN computes it.
std::int64_t attention_scratch(DeviceType device, const AttentionSizes& sizes);
using AttentionScratchBytes = std::int64_t(const AttentionSizes& sizes);

extern Kernels<AttentionForward> attention_forward;
extern Kernels<AttentionBackward> attention_backward;
extern Kernels<AttentionAppend> attention_append_kernels;
extern Kernels<AttentionScratchBytes> attention_scratch_by;

AttentionForward attention_forward_cpu;
AttentionBackward attention_backward_cpu;
AttentionScratchBytes attention_scratch_cpu;
/// Where cuDNN computes it on a GPU: its kept scores, and a number for each row.
AttentionScratchBytes attention_scratch_cudnn;
/// The case of attention_forward_cpu that generation lives on: at most one query a sequence. Declines any other.
AttentionForward attention_decode_cpu;

}  // namespace wick
