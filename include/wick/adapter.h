#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "wick/autograd.h"
#include "wick/lora.h"

namespace wick {

/// An adapter ready to be attached to a model and trained: every factor is a slice of one flat f32 buffer, every
/// gradient of another, so that the optimizer is a few passes over memory and not hundreds of small ones.
class Adapter {
 public:
  struct Entry {
    LoraTarget target;
    Parameter a;  ///< [rank, in_features]
    Parameter b;  ///< [out_features, rank]
  };

  /// Copies the factors, in the order of `modules`. Errors as resolve_targets(), and Error(invalid_argument) when
  /// `weights` and its config do not name the same modules with the same shapes.
  Adapter(const AdapterWeights& weights, std::span<const ModuleInfo> modules, Device device = Device::cpu());

  const LoraConfig& config() const noexcept { return config_; }
  const std::vector<Entry>& entries() const noexcept { return entries_; }
  const Entry* find(std::string_view module) const noexcept;  ///< null when the module has no adapter

  const Tensor& values() const noexcept { return values_; }        ///< flat f32 [parameters]: every A, then every B
  const Tensor& gradients() const noexcept { return gradients_; }  ///< flat f32 [parameters]
  std::int64_t parameter_count() const { return values_.numel(); }
  void zero_grad() const;
  /// Error(invalid_argument) naming the first factor that received no gradient since zero_grad().
  void require_gradients() const;

  /// A copy of the factors on the host, for save_adapter().
  AdapterWeights weights() const;

 private:
  LoraConfig config_;
  Tensor values_;
  Tensor gradients_;
  std::vector<Entry> entries_;
};

}  // namespace wick
