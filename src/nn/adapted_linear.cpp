#include "nn/adapted_linear.h"

#include <utility>

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

Tensor AdaptedLinear::weight_of(std::string_view name) const {
  std::int64_t begin = 0;
  for (std::size_t i = 0; i < names_.size(); begin += sizes_[i], ++i) {
    if (names_[i] == name) return weight_.slice(0, begin, sizes_[i]);
  }
  return {};
}

}  // namespace wick
