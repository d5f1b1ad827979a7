#include "ops/rope/rope.h"

#include "backend/cuda/kernels.cuh"

namespace wick::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kHeads = 4;  // that one thread turns by the same angles

template <class T>
struct Rotation {
  const T* x;
  T* y;                                           // may be x: a pair is read before it is written, and by nobody else
  std::int64_t x_token, x_head, y_token, y_head;  // strides
  const float* cos;
  const float* sin;
  const std::int32_t* positions;  // null: token t is at t
  std::int64_t table_rows;
  int heads;
  int half;
  unsigned threads;
  unsigned packs;   // in half a head
  unsigned groups;  // of kHeads heads
  float sign;
};

// Angles, 16 bytes at a time where the table allows it.
template <int kCount>
__device__ inline void load_angles(const float* from, float factor, float (&to)[kCount]) {
  constexpr int kStep = kCount % 4 == 0 ? 4 : 1;
#pragma unroll
  for (int i = 0; i < kCount; i += kStep) {
    const auto pack = load_pack<float, kStep>(from + i);
#pragma unroll
    for (int e = 0; e < kStep; ++e) to[i + e] = factor * pack[e];
  }
}

template <class T, int kPack>
__global__ void __launch_bounds__(kThreads) rotate(Rotation<T> r) {
  wait_for_previous();
  allow_next();
  const unsigned thread = blockIdx.x * kThreads + threadIdx.x;
  if (thread >= r.threads) return;
  const int column = static_cast<int>(thread % r.packs) * kPack;
  const int first_head = static_cast<int>(thread / r.packs % r.groups) * kHeads;
  const std::int64_t token = thread / r.packs / r.groups;
  const std::int64_t at = r.positions == nullptr ? token : r.positions[token];
  float c[kPack];
  float s[kPack];
  // Nobody has looked at positions on the device: one outside the table gives NaN.
  const bool inside = at >= 0 && at < r.table_rows;
  const std::int64_t angle = (inside ? at * r.half : 0) + column;
  load_angles(r.cos + angle, inside ? 1.0F : NAN, c);
  load_angles(r.sin + angle, inside ? r.sign : NAN, s);
  const T* x = r.x + token * r.x_token + column;
  T* y = r.y + token * r.y_token + column;
  Pack<T, kPack> low[kHeads];
  Pack<T, kPack> high[kHeads];
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
    if (first_head + h >= r.heads) break;
    low[h] = load_pack<T, kPack>(x + (first_head + h) * r.x_head);
    high[h] = load_pack<T, kPack>(x + (first_head + h) * r.x_head + r.half);
  }
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
    if (first_head + h >= r.heads) break;
    Pack<T, kPack> turned_low;
    Pack<T, kPack> turned_high;
#pragma unroll
    for (int e = 0; e < kPack; ++e) {
      const float a = to_float(low[h][e]);
      const float b = to_float(high[h][e]);
      turned_low[e] = from_float<T>(a * c[e] - b * s[e]);
      turned_high[e] = from_float<T>(b * c[e] + a * s[e]);
    }
    store_pack(y + (first_head + h) * r.y_head, turned_low);
    store_pack(y + (first_head + h) * r.y_head + r.half, turned_high);
  }
}

Declined rope_rotate_cuda(const Tensor& x, const Tensor& cos, const Tensor& sin, const Tensor& positions,
                          bool backwards, const Tensor& y) {
  if (x.dtype() == DType::f64) return "f64";
  if (x.numel() == 0) return nullptr;
  if (cos.size(0) == 0) return "a table without positions";
  return visit_narrow(x.dtype(), [&](auto tag) -> Declined {
    using T = decltype(tag);
    constexpr int kPack = Pack<T>::kSize;
    const std::int64_t half = x.size(2) / 2;
    const bool packed = half % kPack == 0 && packs(x) && packs(y) && packs(cos, half) && packs(sin, half);
    const std::int64_t per_half = packed ? half / kPack : half;
    const std::int64_t groups = (x.size(1) + kHeads - 1) / kHeads;
    const std::int64_t threads = x.size(0) * groups * per_half;
    if (threads >= std::int64_t{1} << 31) return "2^31 packs of elements and more";
    const Rotation<T> rotation{
        .x = pointer<T>(x),
        .y = pointer<T>(y),
        .x_token = x.stride(0),
        .x_head = x.stride(1),
        .y_token = y.stride(0),
        .y_head = y.stride(1),
        .cos = pointer<float>(cos),
        .sin = pointer<float>(sin),
        .positions = pointer<std::int32_t>(positions),
        .table_rows = cos.size(0),
        .heads = static_cast<int>(x.size(1)),
        .half = static_cast<int>(half),
        .threads = static_cast<unsigned>(threads),
        .packs = static_cast<unsigned>(per_half),
        .groups = static_cast<unsigned>(groups),
        .sign = backwards ? -1.0F : 1.0F,
    };
    const Work work{.name = backwards ? "rope backward" : "rope",
                    .bytes = static_cast<double>(x.numel()) * 2 * sizeof(T) +
                             static_cast<double>(x.size(0) * half) * 2 * sizeof(float)};
    launch(work, packed ? rotate<T, kPack> : rotate<T, 1>,
           {.grid = blocks_for(threads, kThreads), .block = kThreads, .overlap = true}, rotation);
    return nullptr;
  });
}

}  // namespace

void register_rope() { rope_rotate.on(DeviceType::cuda) = rope_rotate_cuda; }

}  // namespace wick::cuda
