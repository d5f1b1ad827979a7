#include "wick/adapter.h"

#include "core/fail.h"

namespace wick {

Adapter::Adapter(const AdapterWeights& weights, std::span<const ModuleInfo> modules, Device device)
    : config_(weights.config) {
  const std::vector<LoraTarget> targets = resolve_targets(config_, modules);
  if (targets.size() != weights.modules.size()) {
    fail(ErrorCode::invalid_argument, "the adapter has factors for {} modules, its config selects {}",
         weights.modules.size(), targets.size());
  }
  std::int64_t total = 0;
  for (const LoraTarget& target : targets) total += target.rank * (target.in_features + target.out_features);
  values_ = Tensor::empty({total}, DType::f32, device);
  gradients_ = Tensor::zeros({total}, DType::f32, device);
  std::int64_t next_a = 0;
  std::int64_t next_b = 0;
  for (const LoraTarget& target : targets) next_b += target.rank * target.in_features;
  const auto parameter = [&](const std::string& name, const Shape& shape, const Tensor& source, std::int64_t& at) {
    const std::int64_t count = numel(shape);
    const Tensor value = values_.slice(0, at, count).view(shape);
    value.copy_from(source);
    const Tensor gradient = gradients_.slice(0, at, count).view(shape);
    at += count;
    return Parameter(name, value, gradient);
  };
  for (const LoraTarget& target : targets) {
    const auto found = weights.modules.find(target.name);
    if (found == weights.modules.end())
      fail(ErrorCode::invalid_argument, "the adapter has no factors for {}", target.name);
    Parameter a = parameter(target.name + ".lora_A.weight", {target.rank, target.in_features}, found->second.a, next_a);
    Parameter b =
        parameter(target.name + ".lora_B.weight", {target.out_features, target.rank}, found->second.b, next_b);
    entries_.push_back({target, std::move(a), std::move(b)});
  }
}

const Adapter::Entry* Adapter::find(std::string_view module) const noexcept {
  for (const Entry& entry : entries_) {
    if (entry.target.name == module) return &entry;
  }
  return nullptr;
}

void Adapter::zero_grad() const {
  gradients_.fill(0);  // one pass over all of them
  for (const Entry& entry : entries_) {
    entry.a.forget_gradient();
    entry.b.forget_gradient();
  }
}

void Adapter::require_gradients() const {
  for (const Entry& entry : entries_) {
    const Parameter both[] = {entry.a, entry.b};
    wick::require_gradients(both);
  }
}

AdapterWeights Adapter::weights() const {
  AdapterWeights weights;
  weights.config = config_;
  for (const Entry& entry : entries_) {
    const auto copy = [](const Parameter& p) { return p.value().detach().clone().to(Device::cpu()); };
    weights.modules[entry.target.name] = {copy(entry.a), copy(entry.b)};
  }
  return weights;
}

}  // namespace wick
