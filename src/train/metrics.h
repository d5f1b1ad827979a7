#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "io/file_descriptor.h"

namespace wick {

/// One line of metrics.jsonl: what a step reported. A key without a value, or with one that is not finite, is left out:
/// a validation before the first step has no loss, most steps have no val_loss.
struct Metrics {
  std::int64_t step = 0;                 ///< optimizer steps done, 0 before the first
  std::optional<double> loss = {};       ///< mean over the trained tokens of the step, nats
  std::optional<double> lr = {};         ///< learning rate of the step
  std::optional<double> grad_norm = {};  ///< of all gradients together, before clipping
  std::optional<double> tokens_per_second = {};
  std::int64_t trained_tokens = 0;  ///< since step 0
  std::int64_t peak_memory_bytes = 0;
  std::optional<double> val_loss = {};         ///< mean over the trained tokens of the validation data, nats
  std::optional<double> val_recall_at_1 = {};  ///< of a contrastive run

  bool operator==(const Metrics&) const = default;
};

/// The line of a record, without its end.
std::string metrics_line(const Metrics& metrics);

/// The records of a metrics.jsonl. A last line that a crash cut off is ignored. Error(io) when the file cannot be read,
/// Error(format) naming file and line for what is no record.
std::vector<Metrics> read_metrics(const std::filesystem::path& path);

/// Appends records to a metrics.jsonl; each has reached the system when write() returns.
class MetricsWriter {
 public:
  /// Starts an empty file, in place of any that is there.
  static MetricsWriter create(const std::filesystem::path& path);
  /// Keeps the records up to and including `step`, to the byte, and drops those behind it, which a run that resumes
  /// from step's checkpoint writes again. Starts an empty file where there is none.
  static MetricsWriter resume(const std::filesystem::path& path, std::int64_t step);

  /// Error(io) when the system refuses.
  void write(const Metrics& metrics);

 private:
  explicit MetricsWriter(const std::filesystem::path& path);

  std::string path_;
  FileDescriptor fd_;
};

}  // namespace wick
