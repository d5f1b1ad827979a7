#include "ops/layer_norm/layer_norm.h"

#include "backend/cuda/norm_params.cuh"
#include "backend/cuda/rows.cuh"

namespace wick::cuda {
namespace {

// Where a row is read: row i of a matrix, or its row rows[i], which is nowhere when it is out of range.
template <class T>
struct InputRows {
  Rows<const T> matrix;
  const std::int32_t* rows = nullptr;  // null: as they are
  std::int64_t count = 0;              // of the matrix, with `rows`

  __device__ const T* operator[](std::int64_t i) const {
    if (rows == nullptr) return matrix[i];
    const std::int64_t row = rows[i];
    return row >= 0 && row < count ? matrix[row] : nullptr;
  }
};

// A thread's packs of a row; NaN in every dtype when there is no such row.
template <int kPacks, class T, class Part>
__device__ inline void load_input(uint4 (&packs)[kPacks], const InputRows<T>& from, std::int64_t row, Part part) {
  const T* at = part.has(0) ? from[row] : from.matrix.data;
  const bool there = at != nullptr;
  if (!there) part.left = 0;
  load_row(packs, there ? at : from.matrix.data, part, there ? 0 : ~0U);
}

struct Statistics {
  float mean, rstd;
};

// From sums over the deviations from `rough`, a mean with the rounding of its sum in it, and over their squares. The
// first one is what rounding left. It matters in float32, where the mean is far from zero; it is 0 for narrower types.
__device__ inline Statistics statistics(float rough, float2 deviations, float inverse, float eps) {
  const float left = deviations.x * inverse;
  return {rough + left, rsqrtf(fmaxf(deviations.y * inverse - left * left, 0.0F) + eps)};
}

// The elements that the warp's threads have of a row, or those of its part that has a row.
template <class T, Span kSpan, class Part>
__device__ inline float elements_of_warp(const RowShape& shape, Part part) {
  if constexpr (kSpan == Span::warp) return static_cast<float>(shape.length * kPackSize<T>);
  return static_cast<float>(__reduce_add_sync(0xffffffffU, part.count()) * kPackSize<T>);
}

// The same of a thread's deviations from the mean `rough` of its warp, which has `count` elements. That of the team's
// first warp takes its place, so that the warps need to meet only once. It is close enough: its elements are 1/128 of
// the row or more, so the square of its distance from the row's mean is at most 128 times the variance.
template <Span kSpan, int kPacks>
__device__ inline Statistics statistics(Team<kSpan, kPacks>& team, float rough, float2 deviations, float count,
                                        float inverse, float eps) {
  deviations = team.reduce_warp(deviations, Plus{});
  if constexpr (kSpan != Span::warp) {
    const float4* warps = team.exchange(float4{rough, deviations.x, deviations.y, count});
    rough = warps[0].x;
    const auto from_rough = [warps, rough](unsigned warp) {
      const float4 its = warps[warp];
      const float distance = its.x - rough;
      return float2{its.y + its.w * distance, its.z + distance * (2 * its.y + its.w * distance)};
    };
    deviations = team.over_warps(float2{}, from_rough, Plus{});
  }
  return statistics(rough, deviations, inverse, eps);
}

template <class T, bool kResidual, Span kSpan, int kPacks, int kWeights, int kThreads>
__global__ void __launch_bounds__(kThreads, (kMinBlocks < kSpan, kThreads, kWeights == 8 ? 128 : 72, 64 >))
    forward_rows(InputRows<T> x, InputRows<T> residual, const T* weight, const T* bias, float eps, Rows<T> total,
                 Rows<T> y, float* means, float* rstds, RowShape shape) {
  constexpr int kSize = kPackSize<T>;
  constexpr bool kWide = std::is_same_v<T, float>;
  Team<kSpan, kPacks> team(shape);
  const std::int64_t row = team.row();
  const auto part = team.part(shape);
  if constexpr (kWeights == kPacks) {
    prefetch_weights<kPacks>(weight, part);
    if (bias != nullptr) prefetch_weights<kPacks>(bias, part);
  }
  wait_for_previous();
  allow_next();
  uint4 in[kPacks];
  uint4 added[kResidual ? kPacks : 1];
  load_input(in, x, row, part);
  if constexpr (kResidual) load_input(added, residual, row, part);
  team.gather();
  uint4 scales[kWeights], shifts[kWeights] = {};
  if constexpr (kWeights == kPacks) {
    keep_order();  // behind those of the row, and before the reduction
    load_weights(scales, weight, 0, part);
    if (bias != nullptr) load_weights(shifts, bias, 0, part);
    keep_order();
  }

  if constexpr (kResidual) {
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      Elements<T> v = unpack<T>(in[p]);
      const Elements<T> r = unpack<T>(added[p]);
#pragma unroll
      for (int e = 0; e < kSize; ++e) v[e] += r[e];
      in[p] = pack<T>(v);
      if (total.data != nullptr) store_pack(total[row], p, part, in[p]);
    }
  }
  float sum = 0;
#pragma unroll
  for (int p = 0; p < kPacks; ++p) {
    const Elements<T> v = unpack<T>(in[p]);
    float some = 0;
#pragma unroll
    for (int e = 0; e < kSize; ++e) some += v[e];
    sum += some;
  }
  stay_packed<T>(in, shape.zero);
  const float count = elements_of_warp<T, kSpan>(shape, part);
  const float rough = __fdividef(team.reduce_warp(sum, Plus{}), fmaxf(count, 1));
  float2 deviations = {0, 0};
#pragma unroll
  for (int p = 0; p < kPacks; ++p) {
    const Elements<T> v = unpack<T>(in[p]);
    float2 some = {0, 0};
#pragma unroll
    for (int e = 0; e < kSize; ++e) {
      const float deviation = v[e] - rough;
      if constexpr (kWide) some.x += deviation;
      some.y += deviation * deviation;
    }
    const bool valid = part.has(p);
    deviations.x += valid ? some.x : 0.0F;
    deviations.y += valid ? some.y : 0.0F;
  }
  stay_packed<T>(in, shape.other_zero);
  const auto [mean, rstd] = statistics(team, rough, deviations, count, shape.inverse, eps);
  const float offset = -mean * rstd;
  if (means != nullptr && team.leads() && part.has(0)) {
    means[row] = mean;
    rstds[row] = rstd;
  }

#pragma unroll
  for (int p = 0; p < kPacks; ++p) {
    if (kWeights < kPacks && p % kWeights == 0) {
      load_weights(scales, weight, p, part);
      if (bias != nullptr) load_weights(shifts, bias, p, part);
    }
    Elements<T> v = unpack<T>(in[p]);
    const Elements<T> scale = unpack<T>(scales[p % kWeights]);
    const Elements<T> shift = unpack<T>(shifts[p % kWeights]);
#pragma unroll
    for (int e = 0; e < kSize; ++e) {
      const float unit = kWide ? (v[e] - mean) * rstd : v[e] * rstd + offset;
      v[e] = unit * scale[e] + shift[e];
    }
    store_pack(y[row], p, part, pack<T>(v));
  }
}

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

// With x̂ = (x - mean) rstd and h = dy w: dx = rstd (h - mean(h) - x̂ mean(h x̂)).
template <class T, Span kSpan, int kPacks, int kWeights, int kThreads>
__global__ void __launch_bounds__(kThreads, (kMinBlocks<kSpan, kThreads, 80, 64>))
    backward_rows(Rows<const T> dy, Rows<const T> x, const T* weight, const float* means, const float* rstds,
                  Rows<T> dx, RowShape shape) {
  constexpr int kSize = kPackSize<T>;
  Team<kSpan, kPacks> team(shape);
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
  constexpr const RowKernels& kKernels = kResidual ? kTwoInputs : kOneInput;
  float* const means = pointer<float>(stats);
  run_rows<T, kKernels>(
      call, [](auto k) { return forward_rows<T, kResidual, k.span, k.packs, k.weights, k.threads>; },
      [](auto size) { return forward_loop<T, size>; }, x, residual, pointer<const T>(weight), pointer<const T>(bias),
      eps, rows_of<T>(total), rows_of<T>(y), means, means != nullptr ? means + stats.stride(0) : nullptr);
}

template <class T>
void backward(const Tensor& dy, const Tensor& x, const Tensor& weight, const float* means, const float* rstds,
              const Tensor& dx) {
  run_rows<T, kBackward>(
      row_call("layer_norm_backward", {&dy, &x, &dx}, {&weight}),
      [](auto k) { return backward_rows<T, k.span, k.packs, k.weights, k.threads>; },
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
    const RowCall call = row_call(residual.defined() ? "layer_norm_residual" : "layer_norm",
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
      norm_param_gradients<T, true>("layer_norm_dparams", dy, x, means, rstds, pointer<float>(dparams));
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
