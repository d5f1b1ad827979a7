#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>

#include "io/json.h"
#include "wick/data.h"
#include "wick/tensor.h"

namespace wick {

/// Everything that a run needs to go on exactly: one safetensors file, so that replacing it atomically replaces all of
/// it.
struct Checkpoint {
  std::int64_t step = 0;  ///< optimizer steps done
  DataCursor cursor;
  std::int64_t total_trained_tokens = 0;
  std::optional<double> first_val_loss, last_val_loss, best_val_loss;
  std::optional<double> first_val_recall_at_1, last_val_recall_at_1;
  std::int64_t best_step = 0;
  std::int64_t evaluations_without_gain = 0;
  Json options;                        ///< of the run: those that its course depends on
  Tensor values, exp_avg, exp_avg_sq;  ///< flat f32 [parameters]
};

void save_checkpoint(const std::filesystem::path& file, const Checkpoint& checkpoint);
/// Error(io), or Error(format) when the file is not a checkpoint for so many parameters.
Checkpoint load_checkpoint(const std::filesystem::path& file, std::int64_t parameters);

}  // namespace wick
