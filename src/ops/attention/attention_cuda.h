#pragma once

#include <optional>

#include "ops/attention/attention.h"

namespace wick::cuda {

/// cuDNN where it does it, else our own; gradients by ours for Hopper first.
AttentionForward attention_forward_cuda;
AttentionBackward attention_backward_cuda;
AttentionScratchBytes attention_scratch_cuda;

/// Our own kernels, by what they are made for; all decline f64 and head dims over 256. They read offsets on the device
/// and keep inside their tensors whatever these say. Queries and keys after the last sequence's end belong to none:
/// their y and gradients are 0, their lse is -inf. A bias is taken by those for tensor cores and the generic ones.
AttentionForward attention_forward_own;    ///< chooses among those below
AttentionBackward attention_backward_own;  ///< likewise

AttentionForward attention_forward_short;           ///< bf16, f16; every query sees every key, up to 128 of them
AttentionForward attention_forward_hopper;          ///< bf16, f16; head dims 64 and 128; compute capability 9.0
AttentionForward attention_forward_tensor_cores;    ///< bf16, f16
AttentionForward attention_forward_generic;         ///< f32
AttentionForward attention_forward_decode;          ///< few queries with long caches; right for all
AttentionAppend attention_append_cuda;              ///< bf16, f16; head dims 64 and 128
AttentionBackward attention_backward_hopper;        ///< bf16, f16; head dims 64 and 128; compute capability 9.0
AttentionBackward attention_backward_tensor_cores;  ///< bf16, f16; head dims to 128
AttentionBackward attention_backward_generic;       ///< f32, and head dims over 128

/// Bytes of sums in f32 that attention_backward_hopper() leaves between its kernels; nothing where there is no device
/// that it runs on, or it declines the dtype or the head dimension.
std::optional<std::int64_t> attention_parts_hopper(const AttentionSizes& sizes);

/// cuDNN's; they decline what it does not do, or not well. They trust the host about the longest sequence.
AttentionForward attention_forward_cudnn;
AttentionBackward attention_backward_cudnn;

/// The rows of a PackedIndex (backend/cuda/cudnn_attention.h).
struct PackedIndexRows {
  std::int64_t multipliers[9];
  int rows;
  int row_elements;
};
/// Queues the filling of a PackedIndex from offsets, i32 [sequences + 1] on the device, of a batch of `tokens`.
void fill_packed_index(const Tensor& offsets, std::int64_t tokens, std::int64_t longest, const PackedIndexRows& rows,
                       const Tensor& index);

}  // namespace wick::cuda
