#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "train/memory_plan.h"

namespace wick::cli {

/// --grad-checkpoint, --max-memory and --dry-run, for the verbs that train.
struct MemoryOptions {
  std::string grad_checkpoint = "auto";  ///< empty: the option without a value, which is "all"
  double max_gib = 0;                    ///< 0: no limit but the device's
  bool dry_run = false;

  void add_to(CLI::App& verb, const std::string& group);
  /// What each layer makes again in backward. `settings.recompute` is what the model does by itself; `free_bytes`, 0
  /// where it is not known, is what the whole plan may take, or less where the person says so. Error(invalid_argument)
  /// naming the option, Error(out_of_memory) when "auto" finds nothing that fits.
  std::vector<Recompute> choose(const ModelConfig& config, std::span<const LoraTarget> targets,
                                const PlanSettings& settings, std::size_t free_bytes) const;
};

/// What tensors hold on the device and what its driver has free, together; 0 on the CPU or without such a device.
std::size_t usable_bytes(Device device);

/// What the driver counts beside this program's tensors: CUDA, its libraries and kernels so far, and other programs.
std::size_t besides_bytes(Device device);

/// The plan as a table to stdout, or one JSON object. Error(out_of_memory) when it takes more than `free_bytes` (0: not
/// known); `besides` is added for the driver's count.
void print_plan(const MemoryPlan& plan, const PlanSettings& settings, std::size_t free_bytes, std::size_t besides,
                bool json);

}  // namespace wick::cli
