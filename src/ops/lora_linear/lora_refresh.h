#pragma once

#include <span>
#include <utility>
#include <vector>

#include "ops/kernel_table.h"

namespace wick {

/// The copies that bring an adapter's masters into the borders of its weights, to be run after each optimizer step: all
/// of a model's in one launch where the device has a kernel. Sources and targets stay where they are.
class LoraRefresh {
 public:
  LoraRefresh() = default;
  explicit LoraRefresh(std::vector<LoraWeight::Copy> copies) : copies_(std::move(copies)) {}
  /// The first time the kernel's table is made, which waits for the device; later runs can be recorded.
  void run();

 private:
  std::vector<LoraWeight::Copy> copies_;
  Tensor table_;
};

/// The copies one by one: what LoraRefresh is held to.
void copy_each(std::span<const LoraWeight::Copy> copies);

/// All copies at once, by `table`: the kernel's own form of them, undefined before the first call, which makes it.
using LoraCopyAll = Declined(std::span<const LoraWeight::Copy> copies, Tensor& table);
extern Kernels<LoraCopyAll> lora_copy_all;

}  // namespace wick
