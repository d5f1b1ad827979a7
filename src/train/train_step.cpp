#include "train/train_step.h"

#include <algorithm>
#include <cmath>

#include "train/device_step.h"

namespace wick {
namespace {

class HostStep final : public TrainStep {
 public:
  HostStep(TrainTask& task, const Adapter& adapter, const Tensor& exp_avg, const Tensor& exp_avg_sq,
           const Settings& settings)
      : task_(task), adapter_(adapter), exp_avg_(exp_avg), exp_avg_sq_(exp_avg_sq), settings_(settings) {}

  void begin(std::int64_t terms) override {
    adapter_.zero_grad();
    seed_ = Tensor::full({}, 1.0 / static_cast<double>(terms), DType::f32);
    loss_ = 0;
  }

  void accumulate(const Batch& batch, std::uint32_t pass) override {
    task_.set_dropout(settings_.dropout, settings_.seed, pass);
    Tape tape;
    const Tensor sum = task_.loss(batch);
    loss_ += sum.item();
    tape.backward(sum, seed_);
    task_.set_dropout(0, 0, 0);
    adapter_.require_gradients();
  }

  Result update(const Batch& last, std::uint32_t pass, double learning_rate, std::int64_t step) override {
    accumulate(last, pass);
    const double norm = gradient_norm(adapter_.gradients());
    if (!std::isfinite(loss_) || !std::isfinite(norm)) return {loss_, norm};
    // As torch.nn.utils.clip_grad_norm_ scales.
    const double clip = settings_.max_grad_norm > 0 ? std::min(1.0, settings_.max_grad_norm / (norm + 1e-6)) : 1.0;
    AdamWOptions adamw = settings_.adamw;
    adamw.learning_rate = learning_rate;
    adamw_step(adapter_.values(), adapter_.gradients(), exp_avg_, exp_avg_sq_, adamw, step, clip);
    task_.refresh_adapter();
    return {loss_, norm};
  }

 private:
  TrainTask& task_;
  const Adapter& adapter_;
  Tensor exp_avg_, exp_avg_sq_;
  Settings settings_;
  Tensor seed_;
  double loss_ = 0;
};

}  // namespace

std::unique_ptr<TrainStep> make_train_step(TrainTask& task, const Adapter& adapter, const Tensor& exp_avg,
                                           const Tensor& exp_avg_sq, const TrainStep::Settings& settings) {
  if (task.device().type == DeviceType::cpu) {
    return std::make_unique<HostStep>(task, adapter, exp_avg, exp_avg_sq, settings);
  }
  return std::make_unique<DeviceStep>(task, adapter, exp_avg, exp_avg_sq, settings);
}

}  // namespace wick
