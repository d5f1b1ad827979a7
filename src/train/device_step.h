#pragma once

#include <cstdint>
#include <list>
#include <memory>

#include "backend/backend.h"
#include "train/train_step.h"

namespace wick {

/// Training steps on an accelerator. Batches are padded to a few shapes, and the work of each shape is recorded when it
/// comes for the second time and replayed from then on: one launch for forward and backward, one for the update. A task
/// that takes no padding runs launch by launch up to its update.
class DeviceStep final : public TrainStep {
 public:
  DeviceStep(TrainTask& task, const Adapter& adapter, const Tensor& exp_avg, const Tensor& exp_avg_sq,
             const Settings& settings);

  void begin(std::int64_t terms) override;
  void accumulate(const Batch& batch, std::uint32_t pass) override;
  /// Waits for the device.
  Result update(double learning_rate, std::int64_t step) override;

 private:
  // A shape of batch, with inputs at fixed addresses.
  struct Shaped {
    Tensor inputs;  // i32: ids, positions and labels [tokens] each, offsets [sequences + 1]
    Batch batch;    // views of these
    bool ran = false;
    std::unique_ptr<Recording> recording;
  };
  Shaped& shaped_for(std::int64_t tokens, std::int64_t sequences, std::int64_t longest);
  void forward_backward(const Batch& batch);
  void forward_backward_now(const Batch& batch, std::uint32_t pass);
  void apply();
  void run(std::unique_ptr<Recording>& recording, bool& ran, const std::function<void()>& work);
  std::unique_ptr<Recording> record(const std::function<void()>& work);
  void make_room(std::int64_t tokens);
  void forget_recordings();

  TrainTask& task_;
  const Adapter& adapter_;
  Tensor exp_avg_, exp_avg_sq_;
  Settings settings_;
  Device device_;
  std::shared_ptr<RecordingMemory> memory_;  // of all recordings: each leaves its results elsewhere
  std::int64_t recorded_tokens_ = 0;         // of the largest shape there
  std::list<Shaped> shapes_;                 // latest used first
  std::unique_ptr<Recording> update_;
  bool updated_ = false;
  Tensor seed_;      // f32 []: 1 / terms
  Tensor schedule_;  // f64 [3]: see clipped_adamw_step
  Tensor results_;   // f64 [2]: loss, gradient norm
};

}  // namespace wick
