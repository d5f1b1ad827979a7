#include "ops/adamw/adamw.h"
#include "ops/op.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/adamw/adamw_cpu.cpp"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"

#include <algorithm>
#include <cmath>

#include "backend/cpu/simd-inl.h"
#include "core/parallel.h"

HWY_BEFORE_NAMESPACE();
namespace wick {
namespace HWY_NAMESPACE {

HWY_ATTR void step_piece(float* parameters, const float* gradients, float* exp_avg, float* exp_avg_sq,
                         const AdamWOptions& options, double correction1, double correction2, double grad_scale,
                         std::size_t count) {
  const FloatTag d;
  const auto set = [&](double value) HWY_ATTR { return hn::Set(d, static_cast<float>(value)); };
  const auto beta1 = set(options.beta1);
  const auto rest1 = set(1 - options.beta1);
  const auto beta2 = set(options.beta2);
  const auto rest2 = set(1 - options.beta2);
  const auto root2 = set(std::sqrt(correction2));
  const auto eps = set(options.eps);
  const auto rate = set(options.learning_rate / correction1);
  const auto keep = set(1 - options.learning_rate * options.weight_decay);
  const auto scale = set(grad_scale);
  each_vector(d, count, [&](std::size_t i, std::size_t k) HWY_ATTR {
    const auto g = hn::Mul(load_some(d, gradients + i, k), scale);
    const auto m = hn::MulAdd(beta1, load_some(d, exp_avg + i, k), hn::Mul(rest1, g));
    const auto v = hn::MulAdd(beta2, load_some(d, exp_avg_sq + i, k), hn::Mul(hn::Mul(rest2, g), g));
    const auto update = hn::Div(m, hn::Add(hn::Div(hn::Sqrt(v), root2), eps));
    const auto p = hn::NegMulAdd(rate, update, hn::Mul(keep, load_some(d, parameters + i, k)));
    store_some(d, m, exp_avg + i, k);
    store_some(d, v, exp_avg_sq + i, k);
    store_some(d, p, parameters + i, k);
  });
}

HWY_ATTR double squares_of(const float* values, std::size_t count) {
  const hn::ScalableTag<double> d;
  const hn::Rebind<float, decltype(d)> d32;
  const std::size_t lanes = hn::Lanes(d);
  const auto square = [&](std::size_t i, auto sum) HWY_ATTR {
    const auto v = hn::PromoteTo(d, hn::LoadU(d32, values + i));
    return hn::MulAdd(v, v, sum);
  };
  auto a = hn::Zero(d), b = a, c = a, e = a;
  std::size_t i = 0;
  for (; i + 4 * lanes <= count; i += 4 * lanes) {
    a = square(i, a);
    b = square(i + lanes, b);
    c = square(i + 2 * lanes, c);
    e = square(i + 3 * lanes, e);
  }
  double total = hn::GetLane(hn::SumOfLanes(d, hn::Add(hn::Add(a, b), hn::Add(c, e))));
  for (; i < count; ++i) total += static_cast<double>(values[i]) * static_cast<double>(values[i]);
  return total;
}

}  // namespace HWY_NAMESPACE
}  // namespace wick
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace wick {

HWY_EXPORT(step_piece);
HWY_EXPORT(squares_of);

namespace {

void step_all(const Tensor& parameters, const Tensor& gradients, const Tensor& exp_avg, const Tensor& exp_avg_sq,
              const AdamWOptions& options, double correction1, double correction2, double grad_scale) {
  const auto run = HWY_DYNAMIC_DISPATCH(step_piece);
  parallel_for(parameters.numel(), 32768, [&](std::int64_t begin, std::int64_t end) {
    run(parameters.data<float>() + begin, gradients.data<float>() + begin, exp_avg.data<float>() + begin,
        exp_avg_sq.data<float>() + begin, options, correction1, correction2, grad_scale,
        static_cast<std::size_t>(end - begin));
  });
}

}  // namespace

Declined adamw_step_cpu(const Tensor& parameters, const Tensor& gradients, const Tensor& exp_avg,
                        const Tensor& exp_avg_sq, const AdamWOptions& options, std::int64_t step, double grad_scale) {
  step_all(parameters, gradients, exp_avg, exp_avg_sq, options, 1 - std::pow(options.beta1, static_cast<double>(step)),
           1 - std::pow(options.beta2, static_cast<double>(step)), grad_scale);
  return nullptr;
}

Declined gradient_norm_cpu(const Tensor& gradients, const Tensor& norm) {
  // Blocks of fixed length, summed in order: the same bytes on any number of threads.
  constexpr std::int64_t kBlock = 16384;
  const std::int64_t length = gradients.numel();
  const auto run = HWY_DYNAMIC_DISPATCH(squares_of);
  std::vector<double> blocks(static_cast<std::size_t>((length + kBlock - 1) / kBlock));
  parallel_for(static_cast<std::int64_t>(blocks.size()), 4, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t b = begin; b < end; ++b) {
      const std::int64_t start = b * kBlock;
      blocks[static_cast<std::size_t>(b)] =
          run(gradients.data<float>() + start, static_cast<std::size_t>(std::min(kBlock, length - start)));
    }
  });
  double total = 0;
  for (const double block : blocks) total += block;
  *norm.data<double>() = std::sqrt(total);
  return nullptr;
}

Declined clipped_adamw_step_cpu(const Tensor& parameters, const Tensor& gradients, const Tensor& exp_avg,
                                const Tensor& exp_avg_sq, const AdamWOptions& options, double max_grad_norm,
                                const Tensor& schedule, const Tensor& norm) {
  gradient_norm_cpu(gradients, norm);
  const double found = *norm.data<double>();
  if (!std::isfinite(found)) return nullptr;
  const double* now = schedule.data<double>();
  AdamWOptions with_rate = options;
  with_rate.learning_rate = now[0];
  step_all(parameters, gradients, exp_avg, exp_avg_sq, with_rate, now[1], now[2], clip_factor(found, max_grad_norm));
  return nullptr;
}

}  // namespace wick
#endif
