// In place of attention_cudnn.cpp in a program that was built without cuDNN's headers.

#include "ops/attention/attention_cuda.h"

namespace wick::cuda {

Declined attention_forward_cudnn(const Tensor&, const Tensor&, const Tensor&, const AttentionLayout&, const Tensor&,
                                 const Tensor&) {
  return "it was built without cuDNN";
}

Declined attention_backward_cudnn(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                                  const Tensor&, const AttentionLayout&, const Tensor&, const Tensor&, const Tensor&) {
  return "it was built without cuDNN";
}

}  // namespace wick::cuda
