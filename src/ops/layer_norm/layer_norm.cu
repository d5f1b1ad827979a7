#include "ops/layer_norm/layer_norm.h"

#include "backend/cuda/norm_params.cuh"
#include "ops/layer_norm/layer_norm_rows.cuh"

namespace wick::cuda {
namespace {

// The residual's part is added, and rounded, each time that x is read.
template <class T, int kSize>
__global__ void __launch_bounds__(kLoopThreads)
    forward_loop(InputRows<T> x, InputRows<T> residual, const T* weight, const T* bias, float eps, Rows<T> total,
                 Rows<T> y, float* means, float* rstds, RowShape shape) {
  Team<Span::block> team(shape);
  wait_for_previous();
  allow_next();
  const std::int64_t row = blockIdx.x;
  const T* const in = x[row];
  const T* const added = residual.matrix.data != nullptr ? residual[row] : nullptr;
  const bool missing = in == nullptr || (residual.matrix.data != nullptr && added == nullptr);
  const auto load = [&](std::int64_t i) {
    Pack<T, kSize> v;
    if (missing) {
      memset(&v, 0xff, sizeof v);
      return v;
    }
    v = load_pack<T, kSize>(in + i);
    if (added != nullptr) {
      const auto r = load_pack<T, kSize>(added + i);
#pragma unroll
      for (int e = 0; e < kSize; ++e) v[e] = from_float<T>(to_float(v[e]) + to_float(r[e]));
    }
    return v;
  };
  float sum = 0;
  each_access<kSize>(shape, [&](std::int64_t i) {
    const auto v = load(i);
    if (total.data != nullptr) store_pack(total[row] + i, v);
#pragma unroll
    for (int e = 0; e < kSize; ++e) sum += to_float(v[e]);
  });
  const float rough = team.sum(sum) * shape.inverse;
  float2 deviations = {0, 0};
  each_access<kSize>(shape, [&](std::int64_t i) {
    const auto v = load(i);
#pragma unroll
    for (int e = 0; e < kSize; ++e) {
      const float deviation = to_float(v[e]) - rough;
      deviations.x += deviation;
      deviations.y += deviation * deviation;
    }
  });
  const auto [mean, rstd] = statistics(rough, team.sum(deviations), shape.inverse, eps);
  if (means != nullptr && team.leads()) {
    means[row] = mean;
    rstds[row] = rstd;
  }
  each_access<kSize>(shape, [&](std::int64_t i) {
    auto v = load(i);
    const auto scale = load_pack<T, kSize>(weight + i);
    Pack<T, kSize> shift = {};
    if (bias != nullptr) shift = load_pack<T, kSize>(bias + i);
#pragma unroll
    for (int e = 0; e < kSize; ++e) {
      v[e] = from_float<T>((to_float(v[e]) - mean) * rstd * to_float(scale[e]) +
                           (bias != nullptr ? to_float(shift[e]) : 0.0F));
    }
    store_pack(y[row] + i, v);
  });
}

// With x̂ = (x - mean) rstd and h = dy w: dx = rstd (h - mean(h) - x̂ mean(h x̂)). kExpectsFirst: see Team; it takes 5 %
// longer.
template <class T, Span kSpan, int kPacks, int kWeights, int kThreads, bool kExpectsFirst>
__global__ void __launch_bounds__(kThreads, (kMinBlocks<kSpan, kThreads, 80, 64>))
    backward_rows(Rows<const T> dy, Rows<const T> x, const T* weight, const float* means, const float* rstds,
                  Rows<T> dx, RowShape shape) {
  constexpr int kSize = kPackSize<T>;
  Team<kSpan, kPacks, float2, kExpectsFirst> team(shape);
  const std::int64_t row = team.row();
  const auto part = team.part(shape);
  wait_for_previous();
  allow_next();
  uint4 grad[kPacks], in[kPacks];
  load_row(grad, dy[row], part);
  load_row(in, x[row], part);
  team.gather();
  const float mean = part.has(0) ? means[row] : 0.0F;
  const float rstd = part.has(0) ? rstds[row] : 0.0F;
  uint4 scales[kWeights];

  float2 sums = {0, 0};  // of h and of h (x - mean); behind the end of a row h is 0
#pragma unroll
  for (int p = 0; p < kPacks; ++p) {
    if (p % kWeights == 0) load_weights(scales, weight, p, part);
    const Elements<T> g = unpack<T>(grad[p]);
    const Elements<T> v = unpack<T>(in[p]);
    const Elements<T> scale = unpack<T>(scales[p % kWeights]);
    float2 some = {0, 0};
#pragma unroll
    for (int e = 0; e < kSize; ++e) {
      const float h = g[e] * scale[e];
      some.x += h;
      some.y += h * (v[e] - mean);
    }
    sums.x += some.x;
    sums.y += some.y;
  }
  stay_packed<T>(grad, shape.zero);
  stay_packed<T>(in, shape.zero);
  stay_packed<T>(scales, shape.zero);
  sums = team.sum(sums);
  const float centre = sums.x * shape.inverse;
  const float pull = sums.y * rstd * shape.inverse;

#pragma unroll
  for (int p = 0; p < kPacks; ++p) {
    if (kWeights < kPacks && p % kWeights == 0) load_weights(scales, weight, p, part);
    const Elements<T> g = unpack<T>(grad[p]);
    Elements<T> v = unpack<T>(in[p]);
    const Elements<T> scale = unpack<T>(scales[p % kWeights]);
#pragma unroll
    for (int e = 0; e < kSize; ++e) v[e] = (g[e] * scale[e] - centre - (v[e] - mean) * rstd * pull) * rstd;
    store_pack(dx[row], p, part, pack<T>(v));
  }
}

template <class T, int kSize>
__global__ void __launch_bounds__(kLoopThreads)
    backward_loop(Rows<const T> dy, Rows<const T> x, const T* weight, const float* means, const float* rstds,
                  Rows<T> dx, RowShape shape) {
  Team<Span::block> team(shape);
  wait_for_previous();
  allow_next();
  const std::int64_t row = blockIdx.x;
  const float mean = means[row];
  const float rstd = rstds[row];
  float2 sums = {0, 0};
  each_access<kSize>(shape, [&](std::int64_t i) {
    const auto g = load_pack<T, kSize>(dy[row] + i);
    const auto v = load_pack<T, kSize>(x[row] + i);
    const auto scale = load_pack<T, kSize>(weight + i);
#pragma unroll
    for (int e = 0; e < kSize; ++e) {
      const float h = to_float(g[e]) * to_float(scale[e]);
      sums.x += h;
      sums.y += h * (to_float(v[e]) - mean);
    }
  });
  sums = team.sum(sums);
  const float centre = sums.x * shape.inverse;
  const float pull = sums.y * rstd * shape.inverse;
  each_access<kSize>(shape, [&](std::int64_t i) {
    const auto g = load_pack<T, kSize>(dy[row] + i);
    auto v = load_pack<T, kSize>(x[row] + i);
    const auto scale = load_pack<T, kSize>(weight + i);
#pragma unroll
    for (int e = 0; e < kSize; ++e) {
      const float h = to_float(g[e]) * to_float(scale[e]);
      v[e] = from_float<T>((h - centre - (to_float(v[e]) - mean) * rstd * pull) * rstd);
    }
    store_pack(dx[row] + i, v);
  });
}

template <class T, bool kResidual>
void forward(const RowCall& call, const InputRows<T>& x, const InputRows<T>& residual, const Tensor& weight,
             const Tensor& bias, float eps, const Tensor& total, const Tensor& y, const Tensor& stats) {
  constexpr const RowKernels& kKernels = kResidual ? kTwoInputs : kTwoWeights;
  float* const means = pointer<float>(stats);
  run_rows<T, kKernels>(
      call,
      [](auto k) {
        return choose_for_racecheck(k, [](auto first) { return layer_norm_rows<T, kResidual, decltype(k), first>; });
      },
      [](auto size) { return forward_loop<T, size>; }, x, residual, pointer<const T>(weight), pointer<const T>(bias),
      eps, rows_of<T>(total), rows_of<T>(y), means, means != nullptr ? means + stats.stride(0) : nullptr);
}

template <class T>
void backward(const Tensor& dy, const Tensor& x, const Tensor& weight, const float* means, const float* rstds,
              const Tensor& dx) {
  run_rows<T, kBackward>(
      row_call("layer_norm_backward", {&dy, &x, &dx}, {&weight}),
      [](auto k) {
        return choose_for_racecheck(k, [](auto first) {
          using K = decltype(k);
          return backward_rows<T, K::span, K::packs, K::weights, K::threads, first>;
        });
      },
      [](auto size) { return backward_loop<T, size>; }, rows_of<const T>(dy), rows_of<const T>(x),
      pointer<const T>(weight), means, rstds, rows_of<T>(dx));
}

Declined layer_norm_forward_cuda(const Tensor& x, const Tensor& residual, const Tensor& weight, const Tensor& bias,
                                 float eps, const Tensor& total, const Tensor& y, const Tensor& stats) {
  if (x.dtype() == DType::f64) return "f64";
  if (!weight.is_contiguous()) return "a strided weight";
  if (bias.defined() && !bias.is_contiguous()) return "a strided bias";
  if (x.numel() == 0) return nullptr;
  visit_narrow(x.dtype(), [&](auto tag) {
    using T = decltype(tag);
    const RowCall call = forward_call(residual.defined() ? "layer_norm_residual" : "layer_norm",
                                      {&x, &residual, &total, &y}, {&weight, &bias});
    const InputRows<T> in = {rows_of<const T>(x)};
    if (residual.defined()) {
      forward<T, true>(call, in, {rows_of<const T>(residual)}, weight, bias, eps, total, y, stats);
    } else {
      forward<T, false>(call, in, {}, weight, bias, eps, total, y, stats);
    }
  });
  return nullptr;
}

Declined embedding_norm_forward_cuda(const Tensor& words, const Tensor& ids, const Tensor& positions,
                                     const Tensor& places, const Tensor& weight, const Tensor& bias, float eps,
                                     const Tensor& y) {
  if (words.dtype() == DType::f64) return "f64";
  if (words.stride(1) != 1 || positions.stride(1) != 1) return "a table with strided columns";
  if (!weight.is_contiguous() || (bias.defined() && !bias.is_contiguous())) return "a strided weight or bias";
  if (y.numel() == 0) return nullptr;
  visit_narrow(words.dtype(), [&](auto tag) {
    using T = decltype(tag);
    const auto gathered = [](const Tensor& table, const Tensor& rows) {
      return InputRows<T>{rows_of<const T>(table), pointer<std::int32_t>(rows), table.size(0)};
    };
    RowCall call = row_call("embedding_norm", {&y}, {&weight, &bias});
    call.packed = call.packed && packs(words) && packs(positions);
    call.work.bytes *= 3;
    forward<T, true>(call, gathered(words, ids), gathered(positions, places), weight, bias, eps, {}, y, {});
  });
  return nullptr;
}

Declined layer_norm_backward_cuda(const Tensor& dy, const Tensor& x, const Tensor& weight, const Tensor& stats,
                                  const Tensor& dx, const Tensor& dparams) {
  if (x.dtype() == DType::f64) return "f64";
  if (!weight.is_contiguous()) return "a strided weight";
  const float* means = pointer<float>(stats);
  const float* rstds = means + stats.stride(0);
  visit_narrow(x.dtype(), [&](auto tag) {
    using T = decltype(tag);
    if (dx.defined() && x.numel() > 0) backward<T>(dy, x, weight, means, rstds, dx);
    if (dparams.defined()) {
      norm_param_gradients<T, true>("layer_norm_dparams", dy, x, rows_of<const T>(x), means, rstds,
                                    pointer<float>(dparams));
    }
  });
  return nullptr;
}

}  // namespace

void register_layer_norm() {
  layer_norm_forward.on(DeviceType::cuda) = layer_norm_forward_cuda;
  embedding_norm_forward.on(DeviceType::cuda) = embedding_norm_forward_cuda;
  layer_norm_backward.on(DeviceType::cuda) = layer_norm_backward_cuda;
}

}  // namespace wick::cuda
