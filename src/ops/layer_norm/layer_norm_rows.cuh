#pragma once

// The forward of layer norm for rows that fit into registers.

#include "backend/cuda/row_launch.cuh"

namespace wick::cuda {

/// Where a row is read: row i of a matrix, or its row rows[i], which is nowhere when it is out of range.
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

/// A thread's packs of a row; NaN in every dtype when there is no such row.
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

// The same of a thread's deviations from the means `rough` of its warp, which has `count` elements of each row. Those
// of the team's first warp take their place, so that the warps need to meet only once. They are close enough: its
// elements are 1/128 of the row or more, so the square of its distance from the row's mean is at most 128 times the
// variance.
template <int kRows, class Team>
__device__ inline EachRow<Statistics, kRows> statistics(Team& team, EachRow<float, kRows> rough,
                                                        EachRow<float2, kRows> deviations, float count, float inverse,
                                                        float eps) {
  deviations = team.reduce_warp(deviations, Plus{});
  if constexpr (Team::kSeveralWarps) {
    EachRow<float4, kRows> of_warp;
#pragma unroll
    for (int r = 0; r < kRows; ++r) of_warp[r] = {rough[r], deviations[r].x, deviations[r].y, count};
    const EachRow<float4, kRows>* warps = team.exchange(of_warp);
#pragma unroll
    for (int r = 0; r < kRows; ++r) rough[r] = warps[0][r].x;
    const auto from_rough = [warps, rough](unsigned warp) {
      EachRow<float2, kRows> from;
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const float4 its = warps[warp][r];
        const float distance = its.x - rough[r];
        from[r] = {its.y + its.w * distance, its.z + distance * (2 * its.y + its.w * distance)};
      }
      return from;
    };
    deviations = team.over_warps(EachRow<float2, kRows>{}, from_rough, Plus{});
  }
  EachRow<Statistics, kRows> result;
#pragma unroll
  for (int r = 0; r < kRows; ++r) result[r] = statistics(rough[r], deviations[r], inverse, eps);
  return result;
}

/// kResidual: x + residual takes the place of x and goes to `total`, unless that is null. Without, x has its rows as
/// they are. K: a RowKernel or ClusterKernel. kExpectsFirst: see Team; it takes 3 % longer.
template <class T, bool kResidual, class K, bool kExpectsFirst>
__global__ void __launch_bounds__(K::threads, (kMinBlocks < K::span, K::threads, K::weights == 8 ? 128 : 72, 64 >))
    layer_norm_rows(InputRows<T> x, InputRows<T> residual, const T* weight, const T* bias, float eps, Rows<T> total,
                    Rows<T> y, float* means, float* rstds, RowShape shape) {
  constexpr int kSize = kPackSize<T>;
  constexpr int kPacks = K::packs, kWeights = K::weights, kRows = K::rows;
  constexpr bool kWide = std::is_same_v<T, float>;
  static_assert(kRows == 1 || !kResidual);
  typename K::template Team<EachRow<float4, kRows>, kExpectsFirst> team(shape);
  const std::int64_t row = team.row() * kRows;
  const auto part = team.part(shape);
  const auto part_of = [&](int r) {  // nothing of a row behind the last one
    auto its = part;
    if (r > 0 && row + r >= shape.rows) its.left = 0;
    return its;
  };
  if constexpr (kWeights == kPacks) {
    prefetch_weights<kPacks>(weight, part);
    if (bias != nullptr) prefetch_weights<kPacks>(bias, part);
  }
  wait_for_previous();
  allow_next();
  uint4 in[kRows][kPacks];
  uint4 added[kResidual ? kPacks : 1];
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    if constexpr (kResidual) {
      load_input(in[r], x, row + r, part_of(r));
    } else {
      load_row(in[r], x.matrix[row + r], part_of(r));
    }
  }
  if constexpr (kResidual) load_input(added, residual, row, part);
  team.gather();
  auto shift_part = part;  // without a bias nothing is loaded
  if (bias == nullptr) shift_part.left = 0;
  uint4 scales[kWeights], shifts[kWeights];
  if constexpr (K::early) {
    keep_order();  // behind those of the row, and before the reduction
    load_weights(scales, weight, 0, part);
    load_weights(shifts, bias, 0, shift_part);
    keep_order();
  }

  if constexpr (kResidual) {
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      Elements<T> v = unpack<T>(in[0][p]);
      const Elements<T> r = unpack<T>(added[p]);
#pragma unroll
      for (int e = 0; e < kSize; ++e) v[e] += r[e];
      in[0][p] = pack<T>(v);
      if (total.data != nullptr) store_pack(total[row], p, part, in[0][p]);
    }
  }
  EachRow<float, kRows> rough = {};
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      const Elements<T> v = unpack<T>(in[r][p]);
      float some = 0;
#pragma unroll
      for (int e = 0; e < kSize; ++e) some += v[e];
      rough[r] += some;
    }
  }
  const float count = elements_of_warp<T, K::span>(shape, part);
  rough = team.reduce_warp(rough, Plus{});
  EachRow<float2, kRows> deviations = {};
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    rough[r] = __fdividef(rough[r], fmaxf(count, 1));
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      const Elements<T> v = unpack<T>(in[r][p], shape.second);
      float2 some = {0, 0};
#pragma unroll
      for (int e = 0; e < kSize; ++e) {
        const float deviation = v[e] - rough[r];
        if constexpr (kWide) some.x += deviation;
        some.y += deviation * deviation;
      }
      const bool valid = part.has(p);
      deviations[r].x += valid ? some.x : 0.0F;
      deviations[r].y += valid ? some.y : 0.0F;
    }
  }
  const EachRow<Statistics, kRows> stats = statistics(team, rough, deviations, count, shape.inverse, eps);
  if (means != nullptr && team.leads()) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (!part_of(r).has(0)) continue;
      means[row + r] = stats[r].mean;
      rstds[row + r] = stats[r].rstd;
    }
  }

#pragma unroll
  for (int p = 0; p < kPacks; ++p) {
    if (p % kWeights == 0 && !(K::early && p == 0)) {
      load_weights(scales, weight, p, part);
      load_weights(shifts, bias, p, shift_part);
    }
    const Elements<T> scale = unpack<T>(scales[p % kWeights]);
    const Elements<T> shift = unpack<T>(shifts[p % kWeights]);
    // All rows element by element: one after the other they need more registers.
    Elements<T> v[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) v[r] = unpack<T>(in[r][p], shape.third);
#pragma unroll
    for (int e = 0; e < kSize; ++e) {
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const auto [mean, rstd] = stats[r];
        const float unit = kWide ? (v[r][e] - mean) * rstd : fmaf(v[r][e], rstd, -mean * rstd);
        v[r][e] = unit * scale[e] + shift[e];
      }
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) store_pack(y[row + r], p, part_of(r), pack<T>(v[r]));
  }
}

}  // namespace wick::cuda
