#pragma once

// Implementations of attention, and whether they agree with the float64 reference.

#include <cstdint>
#include <vector>

#include "ops/attention/attention_cuda.h"

namespace wick::bench {

struct Implementation {
  const char* name;
  AttentionForward* forward;
  AttentionBackward* backward;  // null: is not checked
};
inline const Implementation kOwn{"own", cuda::attention_forward_own, cuda::attention_backward_own};
inline const Implementation kHopper{"hopper", cuda::attention_forward_own, cuda::attention_backward_hopper};
inline const Implementation kDecode{"decode", cuda::attention_forward_decode, nullptr};
inline const Implementation kCudnn{"cuDNN", cuda::attention_forward_cudnn, cuda::attention_backward_cudnn};

inline Tensor offsets(const std::vector<std::int32_t>& values, Device device) {
  return Tensor::from(values, {static_cast<std::int64_t>(values.size())}).to(device);
}

/// Prints a line for each check: the largest error over the largest reference value of y, lse and all gradients, and
/// whether a second run gives the same bytes. How many failed.
int check_attention(bool decode_only, Device device);

}  // namespace wick::bench
