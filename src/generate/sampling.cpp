#include "generate/sampling.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>

#include "core/fail.h"

namespace wick {
namespace {

constexpr float kRuledOut = -std::numeric_limits<float>::infinity();

float largest(std::span<const float> logits) { return *std::max_element(logits.begin(), logits.end()); }

// Proportional to the probability; exactly 1 for the most probable token.
double weight_of(float logit, float largest_logit) { return std::exp(static_cast<double>(logit - largest_logit)); }

}  // namespace

void apply_repetition_penalty(std::span<float> logits, std::span<const std::int32_t> tokens, double penalty) {
  const auto factor = static_cast<float>(penalty);
  for (const std::int32_t token : tokens) {
    float& logit = logits[static_cast<std::size_t>(token)];
    logit = logit < 0 ? logit * factor : logit / factor;
  }
}

void apply_temperature(std::span<float> logits, double temperature) {
  const double top = largest(logits);
  for (float& logit : logits) {
    const double scaled = (logit - top) / temperature;
    logit = scaled < -double{std::numeric_limits<float>::max()} ? kRuledOut : static_cast<float>(scaled);
  }
}

void apply_top_k(std::span<float> logits, std::int64_t k) {
  if (k >= std::ssize(logits)) return;
  std::vector<float> order(logits.begin(), logits.end());
  std::nth_element(order.begin(), order.begin() + (k - 1), order.end(), std::greater<>());
  const float threshold = order[static_cast<std::size_t>(k - 1)];
  for (float& logit : logits) {
    if (logit < threshold) logit = kRuledOut;
  }
}

void apply_top_p(std::span<float> logits, double p) {
  const float top = largest(logits);
  std::vector<std::int32_t> order;
  double total = 0;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    if (logits[i] == kRuledOut) continue;
    total += weight_of(logits[i], top);
    order.push_back(static_cast<std::int32_t>(i));
  }
  const auto logit = [&](std::int32_t id) { return logits[static_cast<std::size_t>(id)]; };
  const auto before = [&](std::int32_t a, std::int32_t b) {
    return logit(a) != logit(b) ? logit(a) > logit(b) : a < b;
  };
  // Most often a few tokens are enough, so the order is made piece by piece from the top.
  double mass = 0;
  auto kept = order.begin();
  for (std::ptrdiff_t piece = 64; kept != order.end() && mass < p * total; piece *= 4) {
    const auto end = order.end() - kept > piece ? kept + piece : order.end();
    std::nth_element(kept, end == order.end() ? end - 1 : end, order.end(), before);
    std::sort(kept, end, before);
    while (kept != end && mass < p * total) mass += weight_of(logit(*kept++), top);
  }
  for (; kept != order.end(); ++kept) logits[static_cast<std::size_t>(*kept)] = kRuledOut;
}

void apply_min_p(std::span<float> logits, double p) {
  const float top = largest(logits);
  for (float& logit : logits) {
    if (weight_of(logit, top) < p) logit = kRuledOut;
  }
}

std::int32_t argmax(std::span<const float> logits) {
  std::size_t best = 0;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    if (std::isnan(logits[i])) fail(ErrorCode::diverged, "the logit of token {} is NaN", i);
    if (logits[i] > logits[best]) best = i;
  }
  if (logits.empty() || !std::isfinite(logits[best])) {
    fail(ErrorCode::diverged, "the largest of {} logits is not finite", logits.size());
  }
  return static_cast<std::int32_t>(best);
}

std::int32_t sample(std::span<const float> logits, double u) {
  const float top = largest(logits);
  double total = 0;
  for (const float logit : logits) total += logit == kRuledOut ? 0 : weight_of(logit, top);
  const double target = u * total;
  double mass = 0;
  std::size_t last = 0;  // where rounding keeps `mass` below the target, the last token with a probability
  for (std::size_t i = 0; i < logits.size(); ++i) {
    const double weight = logits[i] == kRuledOut ? 0 : weight_of(logits[i], top);
    if (weight == 0) continue;
    last = i;
    mass += weight;
    if (mass > target) break;
  }
  return static_cast<std::int32_t>(last);
}

std::int32_t choose(std::span<float> logits, const SamplingOptions& options, Rng& rng) {
  const std::int32_t most_probable = argmax(logits);
  if (options.temperature == 0) return most_probable;
  if (options.temperature != 1) apply_temperature(logits, options.temperature);
  if (options.top_k > 0) apply_top_k(logits, options.top_k);
  if (options.top_p < 1) apply_top_p(logits, options.top_p);
  if (options.min_p > 0) apply_min_p(logits, options.min_p);
  return sample(logits, rng.uniform_double());
}

void check_prompt_token(std::int32_t token, std::int64_t vocab_size) {
  if (token >= 0 && token < vocab_size) return;
  fail(ErrorCode::invalid_argument, "token {} of the prompt is outside the vocabulary of {}", token, vocab_size);
}

void SamplingOptions::validate() const {
  const auto check = [](bool good, const char* name, double value, const char* expected) {
    if (!good) fail(ErrorCode::invalid_argument, "{} is {}, expected {}", name, value, expected);
  };
  check(temperature >= 0 && std::isfinite(temperature), "temperature", temperature, "a number of at least 0");
  if (top_k < 0) fail(ErrorCode::invalid_argument, "top_k is {}, expected at least 0 (0: all tokens)", top_k);
  check(top_p > 0 && top_p <= 1, "top_p", top_p, "more than 0 and at most 1");
  check(min_p >= 0 && min_p <= 1, "min_p", min_p, "a number from 0 to 1");
  check(repetition_penalty > 0 && std::isfinite(repetition_penalty), "repetition_penalty", repetition_penalty,
        "a number greater than 0");
}

Sampler::Sampler(const SamplingOptions& options, std::uint64_t seed, std::int64_t vocab_size,
                 std::span<const std::int32_t> prompt)
    : options_(options), rng_(seed, kSamplingStream) {
  options_.validate();
  if (options_.repetition_penalty == 1) return;
  seen_.resize(static_cast<std::size_t>(vocab_size));
  for (const std::int32_t token : prompt) {
    check_prompt_token(token, vocab_size);
    note(token);
  }
}

void Sampler::note(std::int32_t token) {
  if (seen_.empty() || seen_[static_cast<std::size_t>(token)]) return;
  seen_[static_cast<std::size_t>(token)] = true;
  tokens_.push_back(token);
}

std::int32_t Sampler::next(std::span<float> logits) {
  if (!tokens_.empty()) apply_repetition_penalty(logits, tokens_, options_.repetition_penalty);
  const std::int32_t token = choose(logits, options_, rng_);
  note(token);
  return token;
}

}  // namespace wick
