#include "ops/pool/pool.h"

#include "backend/cuda/kernels.cuh"

namespace wick::cuda {
namespace {

// A block takes some columns of one sequence. Its threads of one x sum every kParts-th token, and the first of them
// the parts: the order depends on the sequence alone.
constexpr int kPacks = 16;
constexpr int kParts = 8;

template <class T>
struct PoolArguments {
  const T* hidden;
  std::int64_t hidden_row;
  const std::int32_t* offsets;  // [sequences + 1], not to be trusted
  int sequences;
  int tokens;
  int columns;
  T* y;
  std::int64_t y_row;
  std::int32_t* picked;  // [sequences, columns]; null but for max
};

// Rows [begin, end) of a sequence; those behind the last one count as one more.
struct TokenRange {
  int begin, end;

  __device__ TokenRange(const std::int32_t* offsets, int sequences, int tokens, int s) {
    const auto at = [=](int i) { return i > sequences ? tokens : ::min(::max(offsets[i], 0), tokens); };
    begin = at(s);
    end = ::max(begin, at(s + 1));
  }
};

__device__ inline float divisor(Pooling mode, int tokens) {
  return mode == Pooling::mean ? static_cast<float>(tokens) : sqrtf(static_cast<float>(tokens));
}

// The first of the largest.
__device__ inline bool better(float value, int token, float than, int than_token) {
  return token >= 0 && (than_token < 0 || value > than || (value == than && token < than_token));
}

template <class T, int kPack, Pooling kMode>
__global__ void __launch_bounds__(kPacks* kParts) pool_kernel(const PoolArguments<T> in) {
  __shared__ float values[kParts][kPack][kPacks];
  __shared__ int places[kMode == Pooling::max ? kParts : 1][kPack][kPacks];
  wait_for_previous();
  allow_next();
  const int s = static_cast<int>(blockIdx.x);
  const int pack = static_cast<int>(threadIdx.x);
  const int part = static_cast<int>(threadIdx.y);
  const int column = (static_cast<int>(blockIdx.y) * kPacks + pack) * kPack;
  const bool mine = column < in.columns;
  const TokenRange all(in.offsets, in.sequences, in.tokens, s);
  const int begin = kMode == Pooling::last ? ::max(all.begin, all.end - 1) : all.begin;
  const int end = kMode == Pooling::cls ? ::min(all.end, all.begin + 1) : all.end;
  float value[kPack];
  int place[kPack];
#pragma unroll
  for (int e = 0; e < kPack; ++e) {
    value[e] = 0.0F;
    place[e] = -1;
  }
#pragma unroll 4
  for (int t = begin + part; t < end; t += kParts) {
    if (!mine) break;
    const Pack<T, kPack> row = load_pack<T, kPack>(in.hidden + t * in.hidden_row + column);
#pragma unroll
    for (int e = 0; e < kPack; ++e) {
      if constexpr (kMode == Pooling::max) {
        if (better(to_float(row[e]), t, value[e], place[e])) {
          value[e] = to_float(row[e]);
          place[e] = t;
        }
      } else {
        value[e] += to_float(row[e]);
      }
    }
  }
#pragma unroll
  for (int e = 0; e < kPack; ++e) {
    values[part][e][pack] = value[e];
    if constexpr (kMode == Pooling::max) places[part][e][pack] = place[e];
  }
  __syncthreads();
  if (part != 0 || !mine) return;
  Pack<T, kPack> result;
#pragma unroll
  for (int e = 0; e < kPack; ++e) {
#pragma unroll
    for (int p = 1; p < kParts; ++p) {
      if constexpr (kMode == Pooling::max) {
        if (!better(values[p][e][pack], places[p][e][pack], value[e], place[e])) continue;
        value[e] = values[p][e][pack];
        place[e] = places[p][e][pack];
      } else {
        value[e] += values[p][e][pack];
      }
    }
    if ((kMode == Pooling::mean || kMode == Pooling::mean_sqrt) && begin < end) {
      value[e] /= divisor(kMode, end - begin);
    }
    result[e] = from_float<T>(value[e]);
    if constexpr (kMode == Pooling::max) {
      in.picked[static_cast<std::int64_t>(s) * in.columns + column + e] = place[e];
    }
  }
  store_pack(in.y + s * in.y_row + column, result);
}

template <class T>
struct SpreadArguments {
  const T* dy;
  std::int64_t dy_row;
  const std::int32_t* offsets;
  const std::int32_t* picked;
  int sequences;
  int tokens;
  int columns;
  T* dhidden;  // dense
  Pooling mode;
};

template <class T, int kPack>
__global__ void __launch_bounds__(kPacks* kParts) spread_kernel(const SpreadArguments<T> in) {
  wait_for_previous();
  allow_next();
  const int s = static_cast<int>(blockIdx.x);
  const int column = (static_cast<int>(blockIdx.y) * kPacks + static_cast<int>(threadIdx.x)) * kPack;
  if (column >= in.columns) return;
  const TokenRange rows(in.offsets, in.sequences, in.tokens, s);
  const bool whole = in.mode == Pooling::mean || in.mode == Pooling::mean_sqrt;
  Pack<T, kPack> zeros;
  Pack<T, kPack> grad;
  int place[kPack];  // the one token that the gradient goes to
#pragma unroll
  for (int e = 0; e < kPack; ++e) {
    zeros[e] = grad[e] = from_float<T>(0.0F);
    place[e] = -1;
  }
  if (s < in.sequences && rows.begin < rows.end) {
    grad = load_pack<T, kPack>(in.dy + s * in.dy_row + column);
    const float by = whole ? 1.0F / divisor(in.mode, rows.end - rows.begin) : 1.0F;
#pragma unroll
    for (int e = 0; e < kPack; ++e) {
      grad[e] = from_float<T>(to_float(grad[e]) * by);
      if (in.mode == Pooling::max) {
        place[e] = in.picked[static_cast<std::int64_t>(s) * in.columns + column + e];
      } else {
        place[e] = in.mode == Pooling::cls ? rows.begin : rows.end - 1;
      }
    }
  }
  for (int t = rows.begin + static_cast<int>(threadIdx.y); t < rows.end; t += kParts) {
    Pack<T, kPack> row = grad;
    if (!whole) {
#pragma unroll
      for (int e = 0; e < kPack; ++e) row[e] = place[e] == t ? grad[e] : zeros[e];
    }
    store_pack(in.dhidden + static_cast<std::int64_t>(t) * in.columns + column, row);
  }
}

constexpr std::int64_t kMost = std::int64_t{1} << 30;    // counted in int
constexpr std::int64_t kMostColumns = 65535LL * kPacks;  // a grid's y, where each column is a pack
constexpr Declined kTooMany = "2^30 tokens or 2^20 columns and more";

template <class T, int kPack>
auto pool_kernel_of(Pooling mode) {
  switch (mode) {
    case Pooling::mean:
      return pool_kernel<T, kPack, Pooling::mean>;
    case Pooling::mean_sqrt:
      return pool_kernel<T, kPack, Pooling::mean_sqrt>;
    case Pooling::cls:
      return pool_kernel<T, kPack, Pooling::cls>;
    case Pooling::max:
      return pool_kernel<T, kPack, Pooling::max>;
    case Pooling::last:
      break;
  }
  return pool_kernel<T, kPack, Pooling::last>;
}

// A sequence for each x.
Launch grid_of(std::int64_t sequences, std::int64_t columns, int pack) {
  return {.grid = dim3(static_cast<unsigned>(sequences), blocks_for(columns, kPacks * pack)),
          .block = dim3(kPacks, kParts),
          .overlap = true};
}

Declined pool_forward_cuda(const Tensor& hidden, const Tensor& offsets, Pooling mode, const Tensor& y,
                           const Tensor& picked) {
  if (hidden.dtype() == DType::f64) return "f64";
  if (hidden.size(0) > kMost || hidden.size(1) > kMostColumns || y.size(0) > kMost) return kTooMany;
  visit_narrow(hidden.dtype(), [&](auto tag) {
    using T = decltype(tag);
    constexpr int kPack = Pack<T>::kSize;
    const PoolArguments<T> in{.hidden = pointer<const T>(hidden),
                              .hidden_row = hidden.stride(0),
                              .offsets = pointer<std::int32_t>(offsets),
                              .sequences = static_cast<int>(y.size(0)),
                              .tokens = static_cast<int>(hidden.size(0)),
                              .columns = static_cast<int>(hidden.size(1)),
                              .y = pointer<T>(y),
                              .y_row = y.stride(0),
                              .picked = pointer<std::int32_t>(picked)};
    const bool one = mode == Pooling::cls || mode == Pooling::last;
    const Work work{.name = "pool",
                    .bytes = static_cast<double>((one ? 0 : hidden.numel()) + y.numel() * (one ? 2 : 1)) * sizeof(T)};
    const bool packed = hidden.size(1) % kPack == 0 && packs(hidden) && packs(y);
    launch(work, packed ? pool_kernel_of<T, kPack>(mode) : pool_kernel_of<T, 1>(mode),
           grid_of(y.size(0), hidden.size(1), packed ? kPack : 1), in);
  });
  return nullptr;
}

Declined pool_backward_cuda(const Tensor& dy, const Tensor& offsets, Pooling mode, const Tensor& picked,
                            const Tensor& dhidden) {
  if (dy.dtype() == DType::f64) return "f64";
  if (dhidden.size(0) > kMost || dhidden.size(1) > kMostColumns || dy.size(0) > kMost) return kTooMany;
  visit_narrow(dy.dtype(), [&](auto tag) {
    using T = decltype(tag);
    constexpr int kPack = Pack<T>::kSize;
    const SpreadArguments<T> in{.dy = pointer<const T>(dy),
                                .dy_row = dy.stride(0),
                                .offsets = pointer<std::int32_t>(offsets),
                                .picked = pointer<std::int32_t>(picked),
                                .sequences = static_cast<int>(dy.size(0)),
                                .tokens = static_cast<int>(dhidden.size(0)),
                                .columns = static_cast<int>(dhidden.size(1)),
                                .dhidden = pointer<T>(dhidden),
                                .mode = mode};
    const Work work{.name = "pool backward", .bytes = static_cast<double>(dy.numel() + dhidden.numel()) * sizeof(T)};
    const bool packed = dy.size(1) % kPack == 0 && packs(dy) && packs(dhidden);
    launch(work, packed ? spread_kernel<T, kPack> : spread_kernel<T, 1>,
           grid_of(dy.size(0) + 1, dy.size(1), packed ? kPack : 1), in);
  });
  return nullptr;
}

}  // namespace

void register_pool() {
  pool_forward.on(DeviceType::cuda) = pool_forward_cuda;
  pool_backward.on(DeviceType::cuda) = pool_backward_cuda;
}

}  // namespace wick::cuda
