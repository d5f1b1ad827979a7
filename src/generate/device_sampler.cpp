#include "generate/device_sampler.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/fail.h"
#include "generate/sampling.h"

namespace wick {

Kernels<SampleToken> sample_token_kernels{{sample_token_cpu}};

Declined sample_token_cpu(const SamplingState& state, const Tensor& logits, const Tensor& id) {
  state.scaled.copy_from(logits);
  const std::span scaled(state.scaled.data<float>(), static_cast<std::size_t>(state.scaled.numel()));
  std::int32_t& token = *id.data<std::int32_t>();
  token = -1;
  if (std::ranges::any_of(scaled, [](float x) { return std::isnan(x); })) return nullptr;
  if (!std::isfinite(*std::ranges::max_element(scaled))) return nullptr;
  std::int32_t* seen = state.seen.defined() ? state.seen.data<std::int32_t>() : nullptr;
  const auto bit = [](std::int64_t i) { return std::int32_t{1} << (i % 32); };
  if (seen != nullptr) {
    std::vector<std::int32_t> tokens;
    for (std::int64_t i = 0; i < std::ssize(scaled); ++i) {
      if ((seen[i / 32] & bit(i)) != 0) tokens.push_back(static_cast<std::int32_t>(i));
    }
    apply_repetition_penalty(scaled, tokens, state.options.repetition_penalty);
    if (!std::isfinite(*std::ranges::max_element(scaled))) return nullptr;
  }
  auto& position = *state.position.data<std::int64_t>();
  Rng rng(RngState{state.seed, kSamplingStream, static_cast<std::uint64_t>(position)});
  token = choose(scaled, state.options, rng);
  position = static_cast<std::int64_t>(rng.state().position);
  if (seen != nullptr) seen[token / 32] |= bit(token);
  return nullptr;
}

DeviceSampler::DeviceSampler(const SamplingOptions& options, std::uint64_t seed, std::int64_t vocab_size,
                             std::span<const std::int32_t> prompt, Device device)
    : state_{.options = options, .seed = seed, .seen = {}, .position = {}, .scaled = {}} {
  options.validate();
  if (sample_token_kernels.on(device.type) == nullptr) {
    fail(ErrorCode::unsupported, "tokens cannot be chosen on {}", to_string(device));
  }
  if (vocab_size < 1) fail(ErrorCode::invalid_argument, "a vocabulary of {} tokens", vocab_size);
  state_.position = Tensor::zeros({1}, DType::i64, device);
  state_.scaled = Tensor::empty({vocab_size}, DType::f32, device);
  // Whether the kernel takes such a vocabulary only it knows: it is asked to choose once, and the random numbers start
  // anew.
  next(Tensor::zeros({vocab_size}, DType::f32, device), Tensor::empty({1}, DType::i32, device));
  state_.position.fill(0);
  if (options.repetition_penalty == 1) return;
  const Tensor seen = Tensor::zeros({(vocab_size + 31) / 32}, DType::i32);
  for (const std::int32_t token : prompt) {
    check_prompt_token(token, vocab_size);
    seen.data<std::int32_t>()[token / 32] |= std::int32_t{1} << (token % 32);
  }
  state_.seen = seen.to(device);
}

void DeviceSampler::next(const Tensor& logits, const Tensor& id) {
  const Tensor& scaled = state_.scaled;
  if (!logits.defined() || logits.dtype() != DType::f32 || logits.numel() != scaled.numel() ||
      !logits.is_contiguous() || logits.device() != scaled.device()) {
    fail(ErrorCode::invalid_argument, "logits are {}, expected dense f32 [{}] on {}", describe(logits), scaled.numel(),
         to_string(scaled.device()));
  }
  if (!id.defined() || id.dtype() != DType::i32 || id.numel() != 1 || id.device() != scaled.device()) {
    fail(ErrorCode::invalid_argument, "the token's place is {}, expected i32 [1] on {}", describe(id),
         to_string(scaled.device()));
  }
  const Device device = scaled.device();
  const Declined reason = sample_token_kernels.on(device.type)(state_, logits.detach().view({logits.numel()}), id);
  if (reason != nullptr) fail(ErrorCode::unsupported, "tokens cannot be chosen on {}: {}", to_string(device), reason);
}

}  // namespace wick
