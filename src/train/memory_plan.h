#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "wick/lora.h"
#include "wick/model.h"

namespace wick {

/// What a training step is planned for.
struct PlanSettings {
  DType dtype = DType::f32;
  DeviceType device = DeviceType::cpu;
  LoraLayout layout = LoraLayout::separate;
  std::int64_t tokens = 0;           ///< in a batch, padding included
  std::int64_t longest = 0;          ///< tokens of the longest row: see AttentionSizes
  std::vector<Recompute> recompute;  ///< of each layer
};

/// Bytes that training holds, by what they are for. The step's are found by walking through forward and backward with
/// sizes alone, tensor by tensor as the decoder and its ops make and free them; dropout on adapters is not walked.
struct MemoryPlan {
  std::size_t weights = 0;         ///< the frozen model in the computation's dtype
  std::size_t borders = 0;         ///< the adapter's factors in that dtype, beside the weights
  std::size_t adapter = 0;         ///< master values and gradients, f32
  std::size_t optimizer = 0;       ///< both moments, f32
  std::vector<std::size_t> saved;  ///< of each layer, kept from its forward pass to its backward pass
  std::size_t transient = 0;       ///< beyond `saved` where the step needs most
  std::size_t workspace = 0;       ///< of the GEMM library

  std::size_t step() const noexcept;   ///< saved and transient together: the step's peak
  std::size_t total() const noexcept;  ///< all of it
};

/// `targets`: the adapted modules (resolve_targets()).
MemoryPlan plan_memory(const ModelConfig& config, std::span<const LoraTarget> targets, const PlanSettings& settings);

/// The least recomputation whose plan takes at most `budget` bytes: as given in `settings`, then gate_up in one layer
/// after the other, then whole layers likewise. Error(out_of_memory) with the numbers when none fits.
std::vector<Recompute> choose_recompute(const ModelConfig& config, std::span<const LoraTarget> targets,
                                        PlanSettings settings, std::size_t budget);

}  // namespace wick
