#pragma once

namespace wick {

/// While one lives, what this thread queues on an accelerator gives each row of tokens, and each sequence in attention,
/// the same bytes whatever else is computed beside it: no kernel is chosen, and no sum cut, by how many there are. For
/// f32, bf16 and f16, and sequences of one batch that are all up to kShortSequence (attention.h) long, or all longer.
/// It costs few rows the kernels that are made for few.
class BatchInvariance {
 public:
  BatchInvariance() noexcept;
  ~BatchInvariance();
  BatchInvariance(const BatchInvariance&) = delete;
  BatchInvariance& operator=(const BatchInvariance&) = delete;

  static bool wanted() noexcept;  ///< on this thread, now
};

}  // namespace wick
