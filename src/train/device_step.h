#pragma once

#include <cstdint>
#include <list>
#include <memory>

#include "backend/backend.h"
#include "wick/adapter.h"
#include "wick/data.h"
#include "wick/model.h"

namespace wick {

/// Training steps on an accelerator. Batches are padded to a few shapes, and the work of each shape is recorded when it
/// comes for the second time and replayed from then on: one launch for forward and backward, one for the update.
class DeviceStep {
 public:
  struct Settings {
    AdamWOptions adamw;  ///< its learning_rate is ignored
    double max_grad_norm = 0;
    double label_smoothing = 0;
    std::int32_t pad_id = 0;
    std::int64_t token_budget = 0;  ///< > 0: every batch is padded to it
    bool record = true;             ///< false: launch by launch, as a profile wants it
  };
  DeviceStep(Decoder& model, const Adapter& adapter, const Tensor& exp_avg, const Tensor& exp_avg_sq,
             const Settings& settings);

  /// Starts an optimizer step over `trained_tokens` tokens in all.
  void begin(std::int64_t trained_tokens);
  /// Adds a batch's gradient. `fixed` is false where the pass differs from the last one in more than its data
  /// (dropout).
  void accumulate(const Batch& batch, bool fixed);
  struct Result {
    double loss = 0;  ///< summed over the tokens
    double grad_norm = 0;
  };
  /// Clips, updates the adapter unless its gradient is not finite, and waits for the result.
  Result update(double learning_rate, std::int64_t step);

 private:
  // A shape of batch, with inputs at fixed addresses.
  struct Shaped {
    Tensor inputs;  // i32: ids, positions and labels [tokens] each, offsets [sequences + 1]
    TokenBatch tokens;
    Tensor labels;
    bool ran = false;
    std::unique_ptr<Recording> recording;
  };
  Shaped& shaped_for(std::int64_t tokens, std::int64_t sequences);
  void forward_backward(const Shaped& shaped);
  void apply();
  void run(std::unique_ptr<Recording>& recording, bool& ran, const std::function<void()>& work);

  Decoder& model_;
  const Adapter& adapter_;
  Tensor exp_avg_, exp_avg_sq_;
  Settings settings_;
  Device device_;
  std::list<Shaped> shapes_;  // latest used first
  std::unique_ptr<Recording> update_;
  bool updated_ = false;
  Tensor seed_;      // f32 []: 1 / trained tokens
  Tensor schedule_;  // f64 [3]: see clipped_adamw_step
  Tensor results_;   // f64 [2]: loss, gradient norm
};

}  // namespace wick
