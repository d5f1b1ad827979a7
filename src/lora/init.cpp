#include <cmath>

#include "core/fail.h"
#include "core/rng.h"
#include "wick/lora.h"

namespace wick {

AdapterWeights init_adapter(const LoraConfig& config, std::span<const ModuleInfo> modules, std::uint64_t seed) {
  AdapterWeights adapter;
  adapter.config = config;
  std::uint32_t number = 0;
  for (const auto& target : resolve_targets(config, modules)) {
    if (target.in_features < 1 || target.out_features < 1) {
      fail(ErrorCode::invalid_argument, "[lora] {} has {} in and {} out features, expected at least 1", target.name,
           target.in_features, target.out_features);
    }
    const Tensor a = Tensor::empty({target.rank, target.in_features}, DType::f32);
    // Parameters are counted as an optimizer sees them: A, B, A, B, ...
    fill_kaiming_uniform(a, std::sqrt(5.0), seed, {RandomPurpose::initialisation, number});
    number += 2;
    adapter.modules[target.name] = {a, Tensor::zeros({target.out_features, target.rank}, DType::f32)};
  }
  return adapter;
}

}  // namespace wick
