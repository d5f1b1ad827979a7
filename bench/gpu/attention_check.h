#pragma once

// Implementations of attention, and whether they agree with the float64 reference.

#include <cstdint>
#include <string>
#include <vector>

#include "ops/attention/attention_cuda.h"

namespace wick::bench {

struct Implementation {
  const char* name;
  AttentionForward* forward;
  AttentionBackward* backward;  // null: is not checked
};
/// Those that need no Hopper.
inline Declined forward_own(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionLayout& layout,
                            const Tensor& y, const Tensor& lse) {
  if (q.dtype() == DType::f32 || q.size(0) < layout.query_offsets.numel() || q.numel() == 0) {
    return cuda::attention_forward_own(q, k, v, layout, y, lse);
  }
  if (cuda::attention_forward_short(q, k, v, layout, y, lse) == nullptr) return nullptr;
  return cuda::attention_forward_tensor_cores(q, k, v, layout, y, lse);
}
inline const Implementation kOwn{"own", forward_own, cuda::attention_backward_own};
inline const Implementation kHopper{"hopper", cuda::attention_forward_hopper, cuda::attention_backward_hopper};
inline const Implementation kDecode{"decode", cuda::attention_forward_decode, nullptr};
inline const Implementation kCudnn{"cuDNN", cuda::attention_forward_cudnn, cuda::attention_backward_cudnn};

inline Tensor offsets(const std::vector<std::int32_t>& values, Device device) {
  return Tensor::from(values, {static_cast<std::int64_t>(values.size())}).to(device);
}

/// Prints a line for each check: the largest error over the largest reference value of y, lse and all gradients, and
/// whether a second run gives the same bytes, or why it was declined. How many failed.
int check_attention(bool decode_only, const std::string& only, Device device);

}  // namespace wick::bench
