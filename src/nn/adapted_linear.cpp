#include "nn/adapted_linear.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "core/fail.h"
#include "ops/linear/packed_linear.h"
#include "wick/autograd.h"

namespace wick {

AdaptedLinear::AdaptedLinear(std::vector<Projection> projections) {
  std::vector<Tensor> weights;
  std::vector<Tensor> biases;
  for (Projection& projection : projections) {
    names_.push_back(std::move(projection.name));
    sizes_.push_back(projection.weight.size(0));
    weights.push_back(projection.weight);
    if (projection.bias.defined()) biases.push_back(projection.bias);
  }
  weight_ = weights.size() == 1 ? weights[0] : concat(weights, 0);
  if (!biases.empty()) bias_ = biases.size() == 1 ? biases[0] : concat(biases, 0);
  attach(nullptr, LoraLayout::separate);
}

std::vector<Tensor> AdaptedLinear::each(const Tensor& x, const Again& again) const {
  return split((*this)(x, again), 1, sizes_);
}

bool AdaptedLinear::recorded(const Tensor& x) const {
  return recording({x}) || std::ranges::any_of(branches_, [](const LoraBranch& b) { return recording({b.a, b.b}); });
}

Tensor AdaptedLinear::gelu(const Tensor& x, GeluKind kind) const {
  if (packs(x)) return packed(x, kind);
  return recorded(x) ? wick::gelu((*this)(x), kind) : fused(x, {.gelu = kind});
}

Tensor AdaptedLinear::norm(const Tensor& x, const Tensor& residual, const Tensor& weight, const Tensor& bias,
                           double eps) const {
  if (packs(x) || recorded(x) || recording({residual, weight, bias})) {
    return layer_norm_residual((*this)(x), residual, weight, bias, eps);
  }
  return fused(x, {.residual = residual, .after = weight, .after_bias = bias, .after_eps = eps});
}

void AdaptedLinear::attach(const Adapter* adapter, LoraLayout layout) {
  branches_.clear();
  for (std::size_t i = 0; i < names_.size(); ++i) {
    const Adapter::Entry* entry = adapter == nullptr ? nullptr : adapter->find(names_[i]);
    if (entry == nullptr) {
      branches_.push_back({.out_features = sizes_[i], .a = {}, .b = {}, .scale = 1});
    } else {
      branches_.push_back({sizes_[i], entry->a.value(), entry->b.value(), entry->target.scale});
    }
  }
  lora_ = LoraWeight(weight_, branches_, layout);
  weight_ = lora_.core();  // in the bordered layout the copy with the border is the only one that is kept
}

void AdaptedLinear::pack() {
  if (PackedWeight::takes(weight_)) packed_ = std::make_shared<const PackedWeight>(weight_.detach().contiguous());
}

bool AdaptedLinear::packs(const Tensor& x) const {
  return packed_ != nullptr && fused_enabled() && dropout_.p == 0 && !recorded(x);
}

Tensor AdaptedLinear::packed(const Tensor& x, std::optional<GeluKind> gelu) const {
  if (lora_.rank() == 0) return packed_linear(x, *packed_, bias_, gelu);
  // The factors, which training changes, are packed each time: little beside the product.
  const Tensor h = packed_linear(x, PackedWeight(lora_.a().detach()), {});
  const Tensor y =
      add(packed_linear(x, *packed_, bias_), packed_linear(h, PackedWeight(lora_.scaled_b().detach()), {}));
  return gelu ? wick::gelu(y, *gelu) : y;
}

Tensor AdaptedLinear::weight_of(std::string_view name) const {
  std::int64_t begin = 0;
  for (std::size_t i = 0; i < names_.size(); begin += sizes_[i], ++i) {
    if (names_[i] == name) return weight_.slice(0, begin, sizes_[i]);
  }
  return {};
}

std::vector<ModuleInfo> AdaptedLinear::modules() const {
  std::vector<ModuleInfo> all;
  for (std::size_t i = 0; i < names_.size(); ++i) {
    all.push_back({.name = names_[i], .in_features = weight_.size(1), .out_features = sizes_[i]});
  }
  return all;
}

LoraRefresh attach_adapter(std::span<AdaptedLinear* const> layers, const Adapter* adapter, LoraLayout layout) {
  if (adapter != nullptr) {
    for (const Adapter::Entry& entry : adapter->entries()) {
      const std::string& name = entry.target.name;
      Tensor weight;
      for (const AdaptedLinear* layer : layers) {
        if (!weight.defined()) weight = layer->weight_of(name);
      }
      if (!weight.defined()) fail(ErrorCode::invalid_argument, "the model has no linear layer {}", name);
      const Shape needed = {entry.b.value().size(0), entry.a.value().size(1)};
      if (weight.shape() == needed) continue;
      fail(ErrorCode::invalid_argument, "the linear layer {} has shape {}, the adapter is made for {}", name,
           to_string(weight.shape()), to_string(needed));
    }
  }
  std::vector<LoraWeight::Copy> copies;
  for (AdaptedLinear* layer : layers) {
    layer->attach(adapter, layout);
    std::ranges::move(layer->copies(), std::back_inserter(copies));
  }
  LoraRefresh refresh(std::move(copies));
  refresh.run();
  return refresh;
}

void set_adapter_dropout(std::span<AdaptedLinear* const> layers, double p, std::uint64_t seed, std::uint32_t pass) {
  std::uint32_t module = 0;
  for (AdaptedLinear* layer : layers) {
    layer->set_dropout({p, seed, module, pass});
    module += 4;  // up to four siblings, each with a mask of its own
  }
}

}  // namespace wick
