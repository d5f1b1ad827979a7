#pragma once

#include <cstdint>
#include <list>
#include <memory>

#include "backend/backend.h"
#include "train/train_step.h"

namespace wick {

/// Training steps on an accelerator. Batches are padded to a few shapes, and the work of each shape is recorded when it
/// comes for the second time and replayed from then on: a whole step in one launch, and in one more each batch that is
/// accumulated before its last. With dropout, and for a task that takes no padding, the update alone is recorded.
class DeviceStep final : public TrainStep {
 public:
  DeviceStep(TrainTask& task, const Adapter& adapter, const Tensor& exp_avg, const Tensor& exp_avg_sq,
             const Settings& settings);

  void begin(std::int64_t terms) override;
  void accumulate(const Batch& batch, std::uint32_t pass) override;
  /// Waits for the device.
  Result update(const Batch& last, std::uint32_t pass, double learning_rate, std::int64_t step) override;

 private:
  struct Repeated {
    bool ran = false;
    std::unique_ptr<Recording> recording;
  };
  // A shape of batch, with inputs at fixed addresses.
  struct Shaped {
    Tensor inputs;      // i32: ids, positions and labels [tokens] each, offsets [sequences + 1]
    Batch batch;        // views of these
    Repeated gradient;  // of a batch that is not a step's last
    Repeated step;      // the gradient, then the update
  };
  Shaped& shaped_for(std::int64_t tokens, std::int64_t sequences, std::int64_t longest);
  Shaped& padded_into_place(const Batch& batch);
  void forward_backward(const Batch& batch);
  void forward_backward_now(const Batch& batch, std::uint32_t pass);
  void apply();
  void run(Repeated& known, const std::function<void()>& work);
  void run_shaped(const Shaped& shaped, Repeated& known, const std::function<void()>& work);
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
  Repeated update_;                          // where a step's batches are not recorded
  Tensor seed_;                              // f32 []: 1 / terms
  Tensor schedule_;                          // f64 [3]: see clipped_adamw_step
  Tensor results_;                           // f64 [2]: loss, gradient norm
};

}  // namespace wick
