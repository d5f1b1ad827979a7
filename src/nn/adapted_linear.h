#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "backend/cpu/packed_weight.h"
#include "ops/lora_linear/lora_refresh.h"
#include "wick/adapter.h"
#include "wick/ops.h"

namespace wick {

/// Sibling projections that read one input, as one frozen weight, with a place for an adapter in each.
class AdaptedLinear {
 public:
  struct Projection {
    std::string name;  ///< model.layers.0.self_attn.q_proj
    Tensor weight;     ///< [out, in]
    Tensor bias;       ///< [out], or undefined
  };

  AdaptedLinear() = default;
  explicit AdaptedLinear(std::vector<Projection> projections);

  /// `again` makes x a second time, so that it need not be kept (see lora_linear).
  using Again = std::function<Tensor()>;
  Tensor operator()(const Tensor& x, const Again& again = {}) const {
    return packs(x) ? packed(x, {}) : lora_linear(x, lora_, bias_, branches_, dropout_, again);
  }
  /// The same, as one tensor for each projection.
  std::vector<Tensor> each(const Tensor& x, const Again& again = {}) const;

  /// The same with what stands around it, for inference: see fused_linear.
  Tensor fused(const Tensor& x, const LinearFusion& fusion) const {
    return fused_linear(x, lora_, bias_, branches_, fusion);
  }

  /// gelu() of it.
  Tensor gelu(const Tensor& x, GeluKind kind) const;
  /// layer_norm_residual() of it.
  Tensor norm(const Tensor& x, const Tensor& residual, const Tensor& weight, const Tensor& bias, double eps) const;

  /// Keeps a copy of the weight packed for the CPU, where there is such a thing. What no tape records then runs on it,
  /// and adapters on theirs: faster, and each row's bytes depend on that row alone.
  void pack();

  /// Spare columns that an input should have.
  std::int64_t border() const { return lora_.layout() == LoraLayout::bordered ? lora_.rank() : 0; }
  void attach(const Adapter* adapter, LoraLayout layout);  ///< null: detach
  /// What brings the adapter's present values into the weight (see LoraWeight::refresh).
  std::vector<LoraWeight::Copy> copies() const { return lora_.copies(branches_); }
  void set_dropout(const Dropout& dropout) { dropout_ = dropout; }

  Tensor weight_of(std::string_view name) const;  ///< undefined when there is no such projection
  std::vector<ModuleInfo> modules() const;        ///< one for each projection

 private:
  bool packs(const Tensor& x) const;
  Tensor packed(const Tensor& x, std::optional<GeluKind> gelu) const;
  bool recorded(const Tensor& x) const;

  std::vector<std::string> names_;
  std::vector<std::int64_t> sizes_;
  Tensor weight_;  // stacked [sum of out, in]
  Tensor bias_;
  std::vector<LoraBranch> branches_;
  LoraWeight lora_;
  Dropout dropout_;
  std::shared_ptr<const PackedWeight> packed_;  // null: none
};

/// Attaches an adapter to all linear layers of a model (null: detaches). What is returned brings the adapter's values
/// into the weights, and has done so once: what a device needs for it is then there before anything is recorded.
/// Error(invalid_argument) if one of the adapter's modules is not among them, or has another shape.
LoraRefresh attach_adapter(std::span<AdaptedLinear* const> layers, const Adapter* adapter, LoraLayout layout);

/// Dropout on the adapters' inputs, each with a mask of its own.
void set_adapter_dropout(std::span<AdaptedLinear* const> layers, double p, std::uint64_t seed, std::uint32_t pass);

}  // namespace wick
