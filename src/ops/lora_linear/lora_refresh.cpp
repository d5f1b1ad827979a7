#include "ops/lora_linear/lora_refresh.h"

#include "ops/op.h"

namespace wick {

Kernels<LoraCopyAll> lora_copy_all;

void copy_each(std::span<const LoraWeight::Copy> copies) {
  const NoGrad no_grad;
  for (const LoraWeight::Copy& copy : copies) {
    copy.target.copy_from(copy.scale == 1 ? copy.source : mul(copy.source, copy.scale));
  }
}

void LoraRefresh::run() {
  if (copies_.empty()) return;
  const Device device = copies_[0].target.device();
  // A device without the kernel is none that falls back: a few copies are no work there.
  if (lora_copy_all.on(device.type) != nullptr && run_kernel("lora_refresh", lora_copy_all, device, copies_, table_)) {
    return;
  }
  copy_each(copies_);
}

}  // namespace wick
