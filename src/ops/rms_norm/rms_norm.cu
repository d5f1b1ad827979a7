#include "ops/rms_norm/rms_norm.h"

#include "backend/cuda/norm_params.cuh"
#include "backend/cuda/row_launch.cuh"

namespace wick::cuda {
namespace {

// X: how the rows of x lie, in a matrix or as heads; dx lies like x.
template <class T, Span kSpan, int kPacks, int kWeights, int kThreads, bool kResidual, template <class> class X>
__global__ void __launch_bounds__(kThreads, (kMinBlocks < kSpan, kThreads, kWeights == 8 ? 128 : 64,
                                             kResidual ? 64 : kBlockRegisters<kPacks> >))
    forward_rows(X<const T> x, Rows<const T> residual, const T* weight, float eps, Rows<T> sum, Rows<T> y, float* rstd,
                 RowShape shape) {
  constexpr int kSize = kPackSize<T>;
  Team<kSpan, kPacks> team(shape);
  const std::int64_t row = team.row();
  const auto part = team.part(shape);
  if constexpr (kWeights == kPacks) prefetch_weights<kPacks>(weight, part);
  wait_for_previous();
  allow_next();
  uint4 in[kPacks];
  load_row(in, x[row], part);
  [[maybe_unused]] uint4 other[kResidual ? kPacks : 1];
  if constexpr (kResidual) load_row(other, residual[row], part);
  team.gather();
  if constexpr (kResidual) {
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      Elements<T> v = unpack<T>(in[p]);
      const Elements<T> r = unpack<T>(other[p]);
#pragma unroll
      for (int e = 0; e < kSize; ++e) v[e] += r[e];
      in[p] = pack<T>(v);
      store_pack(sum[row], p, part, in[p]);
    }
  }
  uint4 weights[kWeights];
  if constexpr (kWeights == kPacks) {
    keep_order();  // behind those of the row, and before the reduction
    load_weights(weights, weight, 0, part);
    keep_order();
  }

  float squares = 0;
#pragma unroll
  for (int p = 0; p < kPacks; ++p) {
    const Elements<T> v = unpack<T>(in[p]);
    float some = 0;
#pragma unroll
    for (int e = 0; e < kSize; ++e) some += v[e] * v[e];
    squares += some;
  }
  stay_packed<T>(in, shape.zero);
  const float scale = rsqrtf(team.sum(squares) * shape.inverse + eps);
  if (team.leads() && part.has(0)) rstd[row] = scale;

#pragma unroll
  for (int p = 0; p < kPacks; ++p) {
    if (kWeights < kPacks && p % kWeights == 0) load_weights(weights, weight, p, part);
    Elements<T> v = unpack<T>(in[p]);
    const Elements<T> u = unpack<T>(weights[p % kWeights]);
#pragma unroll
    for (int e = 0; e < kSize; ++e) v[e] = v[e] * scale * u[e];
    store_pack(y[row], p, part, pack<T>(v));
  }
}

template <class T, int kSize, template <class> class X>
__global__ void __launch_bounds__(kLoopThreads)
    forward_loop(X<const T> x, Rows<const T> residual, const T* weight, float eps, Rows<T> sum, Rows<T> y, float* rstd,
                 RowShape shape) {
  Team<Span::block> team(shape);
  wait_for_previous();
  allow_next();
  const std::int64_t row = blockIdx.x;
  const T* in = x[row];
  float squares = 0;
  each_access<kSize>(shape, [&](std::int64_t i) {
    auto v = load_pack<T, kSize>(in + i);
    if (residual.data != nullptr) {
      const auto other = load_pack<T, kSize>(residual[row] + i);
#pragma unroll
      for (int e = 0; e < kSize; ++e) v[e] = from_float<T>(to_float(v[e]) + to_float(other[e]));
      store_pack(sum[row] + i, v);
    }
#pragma unroll
    for (int e = 0; e < kSize; ++e) squares += to_float(v[e]) * to_float(v[e]);
  });
  const float scale = rsqrtf(team.sum(squares) * shape.inverse + eps);
  if (team.leads()) rstd[row] = scale;
  if (residual.data != nullptr) in = sum[row];  // each thread reads what it wrote itself
  each_access<kSize>(shape, [&](std::int64_t i) {
    auto v = load_pack<T, kSize>(in + i);
    const auto w = load_pack<T, kSize>(weight + i);
#pragma unroll
    for (int e = 0; e < kSize; ++e) v[e] = from_float<T>(to_float(v[e]) * scale * to_float(w[e]));
    store_pack(y[row] + i, v);
  });
}

// dx = rstd (dy w - x̂ mean(dy w x̂)) + dsum with x̂ = x rstd.
template <class T, Span kSpan, int kPacks, int kWeights, int kThreads, bool kSum, template <class> class X>
__global__ void __launch_bounds__(kThreads, (kMinBlocks < kSpan, kThreads, kSum ? 96 : 80, kSum ? 96 : 64 >))
    backward_rows(Rows<const T> dy, Rows<const T> dsum, X<const T> x, const T* weight, const float* rstd, X<T> dx,
                  RowShape shape) {
  constexpr int kSize = kPackSize<T>;
  Team<kSpan, kPacks> team(shape);
  const std::int64_t row = team.row();
  const auto part = team.part(shape);
  wait_for_previous();
  allow_next();
  uint4 grad[kPacks], in[kPacks];
  [[maybe_unused]] uint4 extra[kSum ? kPacks : 1];
  load_row(grad, dy[row], part);
  load_row(in, x[row], part);
  if constexpr (kSum) load_row(extra, dsum[row], part);
  team.gather();
  const float scale = part.has(0) ? rstd[row] : 0.0F;

  uint4 weights[kWeights];
  float dot = 0;
#pragma unroll
  for (int p = 0; p < kPacks; ++p) {
    if (p % kWeights == 0) load_weights(weights, weight, p, part);
    const Elements<T> dv = unpack<T>(grad[p]);
    const Elements<T> v = unpack<T>(in[p]);
    const Elements<T> u = unpack<T>(weights[p % kWeights]);
    float some = 0;
#pragma unroll
    for (int e = 0; e < kSize; ++e) some += dv[e] * u[e] * v[e];
    dot += some;
  }
  stay_packed<T>(grad, shape.zero);
  stay_packed<T>(in, shape.zero);
  stay_packed<T>(weights, shape.zero);
  const float pull = team.sum(dot) * scale * scale * scale * shape.inverse;

#pragma unroll
  for (int p = 0; p < kPacks; ++p) {
    if (kWeights < kPacks && p % kWeights == 0) load_weights(weights, weight, p, part);
    const Elements<T> dv = unpack<T>(grad[p]);
    Elements<T> v = unpack<T>(in[p]);
    const Elements<T> u = unpack<T>(weights[p % kWeights]);
#pragma unroll
    for (int e = 0; e < kSize; ++e) v[e] = dv[e] * u[e] * scale - v[e] * pull;
    if constexpr (kSum) {
      const Elements<T> more = unpack<T>(extra[p]);
#pragma unroll
      for (int e = 0; e < kSize; ++e) v[e] += more[e];
    }
    store_pack(dx[row], p, part, pack<T>(v));
  }
}

template <class T, int kSize, template <class> class X>
__global__ void __launch_bounds__(kLoopThreads)
    backward_loop(Rows<const T> dy, Rows<const T> dsum, X<const T> x, const T* weight, const float* rstd, X<T> dx,
                  RowShape shape) {
  Team<Span::block> team(shape);
  wait_for_previous();
  allow_next();
  const std::int64_t row = blockIdx.x;
  float dot = 0;
  each_access<kSize>(shape, [&](std::int64_t i) {
    const auto dv = load_pack<T, kSize>(dy[row] + i);
    const auto v = load_pack<T, kSize>(x[row] + i);
    const auto w = load_pack<T, kSize>(weight + i);
#pragma unroll
    for (int e = 0; e < kSize; ++e) dot += to_float(dv[e]) * to_float(w[e]) * to_float(v[e]);
  });
  const float scale = rstd[row];
  const float pull = team.sum(dot) * scale * scale * scale * shape.inverse;
  each_access<kSize>(shape, [&](std::int64_t i) {
    const auto dv = load_pack<T, kSize>(dy[row] + i);
    const auto v = load_pack<T, kSize>(x[row] + i);
    const auto w = load_pack<T, kSize>(weight + i);
    Pack<T, kSize> extra = {};
    if (dsum.data != nullptr) extra = load_pack<T, kSize>(dsum[row] + i);
    Pack<T, kSize> out;
#pragma unroll
    for (int e = 0; e < kSize; ++e) {
      float value = to_float(dv[e]) * to_float(w[e]) * scale - to_float(v[e]) * pull;
      if (dsum.data != nullptr) value += to_float(extra[e]);
      out[e] = from_float<T>(value);
    }
    store_pack(dx[row] + i, out);
  });
}

template <class T, bool kResidual, const RowKernels& kKernels, template <class> class X>
void forward(const RowCall& call, const X<const T>& x, const Tensor& residual, const Tensor& weight, float eps,
             const Tensor& sum, const Tensor& y, const Tensor& rstd) {
  run_rows<T, kKernels>(
      call, [](auto k) { return forward_rows<T, k.span, k.packs, k.weights, k.threads, kResidual, X>; },
      [](auto size) { return forward_loop<T, size, X>; }, x, rows_of<const T>(residual), pointer<const T>(weight), eps,
      rows_of<T>(sum), rows_of<T>(y), pointer<float>(rstd));
}

template <class T, bool kSum, const RowKernels& kKernels, template <class> class X>
void backward(const RowCall& call, const Tensor& dy, const Tensor& dsum, const X<const T>& x, const Tensor& weight,
              const Tensor& rstd, const X<T>& dx) {
  run_rows<T, kKernels>(
      call, [](auto k) { return backward_rows<T, k.span, k.packs, k.weights, k.threads, kSum, X>; },
      [](auto size) { return backward_loop<T, size, X>; }, rows_of<const T>(dy), rows_of<const T>(dsum), x,
      pointer<const T>(weight), pointer<const float>(rstd), dx);
}

bool too_many_heads(const Tensor& t) { return t.rank() == 3 && t.size(0) * t.size(1) >= std::int64_t{1} << 31; }
constexpr Declined kTooManyHeads = "2^31 heads and more";

Declined rms_norm_forward_cuda(const Tensor& x, const Tensor& residual, const Tensor& weight, float eps,
                               const Tensor& sum, const Tensor& y, const Tensor& rstd) {
  if (x.dtype() == DType::f64) return "f64";
  if (!weight.is_contiguous()) return "a strided weight";
  if (x.numel() == 0) return nullptr;
  if (too_many_heads(x)) return kTooManyHeads;
  visit_narrow(x.dtype(), [&](auto tag) {
    using T = decltype(tag);
    const RowCall call =
        forward_call(residual.defined() ? "rms_norm_residual" : "rms_norm", {&y, &x, &residual, &sum}, {&weight});
    if (residual.defined()) {
      forward<T, true, kTwoInputs, Rows>(call, rows_of<const T>(x), residual, weight, eps, sum, y, rstd);
    } else if (x.rank() == 2) {
      forward<T, false, kOneInput, Rows>(call, rows_of<const T>(x), residual, weight, eps, sum, y, rstd);
    } else {
      forward<T, false, kHeads, HeadRows>(call, head_rows_of<const T>(x, x.size(1)), residual, weight, eps, sum, y,
                                          rstd);
    }
  });
  return nullptr;
}

Declined rms_norm_backward_cuda(const Tensor& dy, const Tensor& dsum, const Tensor& x, const Tensor& weight,
                                const Tensor& rstd, const Tensor& dx, const Tensor& dweight) {
  if (x.dtype() == DType::f64) return "f64";
  if (!weight.is_contiguous()) return "a strided weight";
  if (too_many_heads(x) || too_many_heads(dx)) return kTooManyHeads;
  visit_narrow(x.dtype(), [&](auto tag) {
    using T = decltype(tag);
    const RowCall call = row_call("rms_norm_backward", {&dy, &dsum, &x, &dx}, {&weight});
    const auto weight_gradient = [&](const auto& x_rows) {
      if (!dweight.defined()) return;
      norm_param_gradients<T, false>("rms_norm_dweight", dy, x, x_rows, nullptr, pointer<float>(rstd),
                                     pointer<float>(dweight));
    };
    if (x.rank() == 2 && dx.rank() == 2) {
      const auto x_rows = rows_of<const T>(x);
      if (x.numel() > 0) {
        (dsum.defined() ? backward<T, true, kBackward, Rows>
                        : backward<T, false, kBackward, Rows>)(call, dy, dsum, x_rows, weight, rstd, rows_of<T>(dx));
      }
      weight_gradient(x_rows);
    } else {
      const std::int64_t heads = x.rank() == 3 ? x.size(1) : dx.size(1);
      const auto x_rows = head_rows_of<const T>(x, heads);
      backward<T, false, kHeads, HeadRows>(call, dy, dsum, x_rows, weight, rstd, head_rows_of<T>(dx, heads));
      weight_gradient(x_rows);
    }
  });
  return nullptr;
}

}  // namespace

void register_rms_norm() {
  rms_norm_forward.on(DeviceType::cuda) = rms_norm_forward_cuda;
  rms_norm_backward.on(DeviceType::cuda) = rms_norm_backward_cuda;
}

}  // namespace wick::cuda
