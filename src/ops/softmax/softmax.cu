#include "ops/softmax/softmax.h"

#include "backend/cuda/row_launch.cuh"

namespace wick::cuda {
namespace {

constexpr float kLog2e = 1.44269504F;

// The largest of some numbers, and the sum of exp(number - largest).
struct Exponentials {
  float largest, sum;
};

__device__ inline float exp_below(float x, float largest) { return fast_exp2((x - largest) * kLog2e); }

// Nothing is -inf and 0: without the comparison, two of them would give NaN.
__device__ inline float rescale(float from, float to) { return from == to ? 1.0F : exp_below(from, to); }

__device__ inline Exponentials joined(Exponentials a, Exponentials b) {
  const float largest = fmaxf(a.largest, b.largest);
  return {largest, a.sum * rescale(a.largest, largest) + b.sum * rescale(b.largest, largest)};
}

template <class Team>
__device__ inline Exponentials joined(Team& team, Exponentials mine) {
  const float2 all = team.reduce(float2{mine.largest, mine.sum}, float2{-INFINITY, 0}, [](float2 a, float2 b) {
    const Exponentials both = joined({a.x, a.y}, {b.x, b.y});
    return float2{both.largest, both.sum};
  });
  return {all.x, all.y};
}

// A word of elements that are -inf.
template <class T>
constexpr std::uint32_t kMinusInfinity = std::is_same_v<T, float>           ? 0xff800000U
                                         : std::is_same_v<T, __nv_bfloat16> ? 0xff80ff80U
                                                                            : 0xfc00fc00U;

// The largest element of a thread's packs. NaN counts as -inf; it is in the sum of exponentials.
template <class T, int kPacks>
__device__ inline float largest_of(const uint4 (&packs)[kPacks]) {
  if constexpr (std::is_same_v<T, float>) {
    float largest = -INFINITY;
#pragma unroll
    for (const uint4& p : packs) {
      const Elements<T> v = unpack<T>(p);
      largest = fmaxf(fmaxf(largest, fmaxf(v[0], v[1])), fmaxf(v[2], v[3]));
    }
    return largest;
  } else {  // two at a time
    using Pair = std::conditional_t<std::is_same_v<T, __half>, __half2, __nv_bfloat162>;
    const auto pair = [](std::uint32_t word) { return *reinterpret_cast<const Pair*>(&word); };
    Pair largest = pair(kMinusInfinity<T>);
#pragma unroll
    for (const uint4& p : packs) {
      largest = __hmax2(largest, __hmax2(__hmax2(pair(p.x), pair(p.y)), __hmax2(pair(p.z), pair(p.w))));
    }
    return fmaxf(to_float(largest.x), to_float(largest.y));
  }
}

// A row of only -inf gives NaN, and so does one with NaN or inf in it.
template <class T, Span kSpan, int kPacks, int kThreads>
__global__ void __launch_bounds__(kThreads, (kMinBlocks<kSpan, kThreads, 72, kBlockRegisters<kPacks>>))
    forward_rows(Rows<const T> x, Rows<T> y, RowShape shape) {
  constexpr int kSize = kPackSize<T>;
  constexpr bool kWide = std::is_same_v<T, float>;  // the exponentials can take their numbers' place
  Team<kSpan, kPacks, float2> team(shape);
  const std::int64_t row = team.row();
  const auto part = team.part(shape);
  wait_for_previous();
  allow_next();
  uint4 in[kPacks];
  load_row(in, x[row], part, kMinusInfinity<T>);
  team.gather();
  Exponentials mine = {largest_of<T>(in), 0};
  const float reference = mine.largest == -INFINITY ? 0.0F : mine.largest;
#pragma unroll
  for (int p = 0; p < kPacks; ++p) {
    Elements<T> v = unpack<T>(in[p]);
    float some = 0;
#pragma unroll
    for (int e = 0; e < kSize; ++e) {
      v[e] = exp_below(v[e], reference);
      some += v[e];
    }
    mine.sum += some;
    if constexpr (kWide) in[p] = pack<T>(v);
  }
  stay_packed<T>(in, shape.zero);
  const Exponentials all = joined(team, mine);
  const float scale = rescale(mine.largest, all.largest) / all.sum;
  const float exponent = -log2f(all.sum);

#pragma unroll
  for (int p = 0; p < kPacks; ++p) {
    Elements<T> v = unpack<T>(in[p]);
#pragma unroll
    for (int e = 0; e < kSize; ++e) {
      v[e] = kWide ? v[e] * scale : fast_exp2((v[e] - all.largest) * kLog2e + exponent);
    }
    store_pack(y[row], p, part, pack<T>(v));
    if (p % 4 == 3) keep_order();  // results that wait for each other need more registers than there are
  }
}

template <class T, int kSize>
__global__ void __launch_bounds__(kLoopThreads) forward_loop(Rows<const T> x, Rows<T> y, RowShape shape) {
  Team<Span::block> team(shape);
  wait_for_previous();
  allow_next();
  const std::int64_t row = blockIdx.x;
  Exponentials mine = {-INFINITY, 0};
  each_access<kSize>(shape, [&](std::int64_t i) {
    const auto v = load_pack<T, kSize>(x[row] + i);
    float largest = mine.largest;
#pragma unroll
    for (int e = 0; e < kSize; ++e) largest = fmaxf(largest, to_float(v[e]));
    const float reference = largest == -INFINITY ? 0.0F : largest;
    mine.sum *= rescale(mine.largest, largest);
    mine.largest = largest;
#pragma unroll
    for (int e = 0; e < kSize; ++e) mine.sum += exp_below(to_float(v[e]), reference);
  });
  const Exponentials all = joined(team, mine);
  const float scale = 1.0F / all.sum;
  each_access<kSize>(shape, [&](std::int64_t i) {
    auto v = load_pack<T, kSize>(x[row] + i);
#pragma unroll
    for (int e = 0; e < kSize; ++e) v[e] = from_float<T>(exp_below(to_float(v[e]), all.largest) * scale);
    store_pack(y[row] + i, v);
  });
}

template <class T, Span kSpan, int kPacks, int kThreads>
__global__ void __launch_bounds__(kThreads, (kMinBlocks<kSpan, kThreads, 64, 64>))
    backward_rows(Rows<const T> dy, Rows<const T> y, Rows<T> dx, RowShape shape) {
  constexpr int kSize = kPackSize<T>;
  Team<kSpan, kPacks> team(shape);
  const std::int64_t row = team.row();
  const auto part = team.part(shape);
  wait_for_previous();
  allow_next();
  uint4 grad[kPacks], in[kPacks];
  load_row(grad, dy[row], part);
  load_row(in, y[row], part);
  team.gather();
  float dot = 0;
#pragma unroll
  for (int p = 0; p < kPacks; ++p) {
    const Elements<T> g = unpack<T>(grad[p]);
    const Elements<T> v = unpack<T>(in[p]);
    float some = 0;
#pragma unroll
    for (int e = 0; e < kSize; ++e) some += g[e] * v[e];
    dot += some;
  }
  stay_packed<T>(grad, shape.zero);
  stay_packed<T>(in, shape.zero);
  dot = team.sum(dot);
#pragma unroll
  for (int p = 0; p < kPacks; ++p) {
    const Elements<T> g = unpack<T>(grad[p]);
    Elements<T> v = unpack<T>(in[p]);
#pragma unroll
    for (int e = 0; e < kSize; ++e) v[e] *= g[e] - dot;
    store_pack(dx[row], p, part, pack<T>(v));
  }
}

template <class T, int kSize>
__global__ void __launch_bounds__(kLoopThreads)
    backward_loop(Rows<const T> dy, Rows<const T> y, Rows<T> dx, RowShape shape) {
  Team<Span::block> team(shape);
  wait_for_previous();
  allow_next();
  const std::int64_t row = blockIdx.x;
  float dot = 0;
  each_access<kSize>(shape, [&](std::int64_t i) {
    const auto g = load_pack<T, kSize>(dy[row] + i);
    const auto v = load_pack<T, kSize>(y[row] + i);
#pragma unroll
    for (int e = 0; e < kSize; ++e) dot += to_float(g[e]) * to_float(v[e]);
  });
  dot = team.sum(dot);
  each_access<kSize>(shape, [&](std::int64_t i) {
    const auto g = load_pack<T, kSize>(dy[row] + i);
    auto v = load_pack<T, kSize>(y[row] + i);
#pragma unroll
    for (int e = 0; e < kSize; ++e) v[e] = from_float<T>(to_float(v[e]) * (to_float(g[e]) - dot));
    store_pack(dx[row] + i, v);
  });
}

template <class T>
void forward(const Tensor& x, const Tensor& y) {
  run_rows<T, kOneInput>(
      forward_call("softmax", {&x, &y}, {}), [](auto k) { return forward_rows<T, k.span, k.packs, k.threads>; },
      [](auto size) { return forward_loop<T, size>; }, rows_of<const T>(x), rows_of<T>(y));
}

template <class T>
void backward(const Tensor& dy, const Tensor& y, const Tensor& dx) {
  run_rows<T, kBackward>(
      row_call("softmax_backward", {&dy, &y, &dx}, {}),
      [](auto k) { return backward_rows<T, k.span, k.packs, k.threads>; },
      [](auto size) { return backward_loop<T, size>; }, rows_of<const T>(dy), rows_of<const T>(y), rows_of<T>(dx));
}

Declined softmax_forward_cuda(const Tensor& x, const Tensor& y) {
  if (y.dtype() == DType::f64) return "f64";
  if (y.numel() > 0) visit_narrow(y.dtype(), [&](auto tag) { forward<decltype(tag)>(x, y); });
  return nullptr;
}

Declined softmax_backward_cuda(const Tensor& dy, const Tensor& y, const Tensor& dx) {
  if (y.dtype() == DType::f64) return "f64";
  if (y.numel() > 0) visit_narrow(y.dtype(), [&](auto tag) { backward<decltype(tag)>(dy, y, dx); });
  return nullptr;
}

}  // namespace

void register_softmax() {
  softmax_forward.on(DeviceType::cuda) = softmax_forward_cuda;
  softmax_backward.on(DeviceType::cuda) = softmax_backward_cuda;
}

}  // namespace wick::cuda
