#include "ops/rope_append/rope_append.h"

#include "backend/cuda/kernels.cuh"

namespace wick::cuda {
namespace {

constexpr int kThreads = 128;

// Heads of q, k and v, one after the other; in a token's row they lie wherever their strides say.
template <class T>
struct Append {
  const T *q, *k, *v;
  std::int64_t q_token, q_head, k_token, k_head, v_token, v_head;  // strides
  T *y, *keys, *values;
  const float *cos, *sin;
  const std::int32_t* end;
  std::int64_t rows;  // of the tables and the cache, the fewer
  int tokens, heads, kv_heads, half;
  unsigned threads;
  unsigned packs;  // in half a head
};

// A thread has a pack of the lower half of a head and the one above it: few tokens are spread over many threads, since
// what they wait for is memory.
template <class T, int kPack>
__global__ void __launch_bounds__(kThreads) append(Append<T> a) {
  wait_for_previous();
  allow_next();
  const unsigned thread = blockIdx.x * kThreads + threadIdx.x;
  if (thread >= a.threads) return;
  const auto all_heads = static_cast<unsigned>(a.heads + 2 * a.kv_heads);
  const int column = static_cast<int>(thread % a.packs) * kPack;
  int head = static_cast<int>(thread / a.packs % all_heads);
  const std::int64_t token = thread / a.packs / all_heads;

  const std::int64_t row = *a.end - a.tokens + token;
  const bool inside = row >= 0 && row < a.rows;
  const std::int64_t cache_row = row * a.kv_heads * 2 * a.half;
  const T* from = a.q + token * a.q_token + head * a.q_head;
  T* to = a.y + (token * a.heads + head) * 2 * a.half;
  const bool is_query = head < a.heads;
  bool turns = true;
  if (!is_query) {
    head -= a.heads;
    turns = head < a.kv_heads;
    if (!turns) head -= a.kv_heads;
    from = turns ? a.k + token * a.k_token + head * a.k_head : a.v + token * a.v_token + head * a.v_head;
    to = (turns ? a.keys : a.values) + cache_row + head * 2 * a.half;
  }
  Pack<T, kPack> low = load_pack<T, kPack>(from + column);
  Pack<T, kPack> high = load_pack<T, kPack>(from + a.half + column);
  if (!is_query && !inside) return;
  if (turns) {
    const std::int64_t angle = (inside ? row * a.half : 0) + column;
    constexpr int kStep = kPack % 4 == 0 ? 4 : 1;
#pragma unroll
    for (int i = 0; i < kPack; i += kStep) {
      const auto c = load_pack<float, kStep>(a.cos + angle + i);
      const auto s = load_pack<float, kStep>(a.sin + angle + i);
#pragma unroll
      for (int e = 0; e < kStep; ++e) {
        const float x = to_float(low[i + e]);
        const float y = to_float(high[i + e]);
        // Nobody has looked at the row: one outside gives NaN.
        low[i + e] = from_float<T>(inside ? x * c[e] - y * s[e] : NAN);
        high[i + e] = from_float<T>(inside ? y * c[e] + x * s[e] : NAN);
      }
    }
  }
  store_pack(to + column, low);
  store_pack(to + a.half + column, high);
}

// Every head of every token starts on 16 bytes.
bool heads_pack(const Tensor& t) { return packs(t, t.stride(0)) && packs(t, t.stride(1)); }

Declined rope_append_cuda(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& cos, const Tensor& sin,
                          const Tensor& end, const Tensor& keys, const Tensor& values, const Tensor& y) {
  if (q.dtype() == DType::f64) return "f64";
  if (q.size(0) == 0 || q.size(2) == 0) return nullptr;
  if (cos.size(0) == 0 || keys.size(0) == 0) return "a table or a cache without rows";
  return visit_narrow(q.dtype(), [&](auto tag) -> Declined {
    using T = decltype(tag);
    constexpr int kPack = Pack<T>::kSize;
    const std::int64_t half = q.size(2) / 2;
    const bool packed = half % kPack == 0 && heads_pack(q) && heads_pack(k) && heads_pack(v) && packs(keys, half) &&
                        packs(values, half) && packs(y, half) && packs(cos, half) && packs(sin, half);
    const std::int64_t per_half = packed ? half / kPack : half;
    const std::int64_t threads = q.size(0) * (q.size(1) + 2 * k.size(1)) * per_half;
    if (threads >= std::int64_t{1} << 31) return "2^31 packs of elements and more";
    const Append<T> arguments{
        .q = pointer<T>(q),
        .k = pointer<T>(k),
        .v = pointer<T>(v),
        .q_token = q.stride(0),
        .q_head = q.stride(1),
        .k_token = k.stride(0),
        .k_head = k.stride(1),
        .v_token = v.stride(0),
        .v_head = v.stride(1),
        .y = pointer<T>(y),
        .keys = pointer<T>(keys),
        .values = pointer<T>(values),
        .cos = pointer<float>(cos),
        .sin = pointer<float>(sin),
        .end = pointer<std::int32_t>(end),
        .rows = cos.size(0) < keys.size(0) ? cos.size(0) : keys.size(0),
        .tokens = static_cast<int>(q.size(0)),
        .heads = static_cast<int>(q.size(1)),
        .kv_heads = static_cast<int>(k.size(1)),
        .half = static_cast<int>(half),
        .threads = static_cast<unsigned>(threads),
        .packs = static_cast<unsigned>(per_half),
    };
    const Work work{.name = "rope append",
                    .bytes = static_cast<double>(q.numel() + 2 * k.numel()) * 2 * sizeof(T) +
                             static_cast<double>(q.size(0) * half) * 2 * sizeof(float)};
    launch(work, packed ? append<T, kPack> : append<T, 1>,
           {.grid = blocks_for(threads, kThreads), .block = kThreads, .overlap = true}, arguments);
    return nullptr;
  });
}

}  // namespace

void register_rope_append() { rope_append_kernels.on(DeviceType::cuda) = rope_append_cuda; }

}  // namespace wick::cuda
