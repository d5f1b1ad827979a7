#include "embed/search_cpu.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "embed/search_cpu.cpp"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"

#include "backend/cpu/simd-inl.h"
#include "core/fail.h"

HWY_BEFORE_NAMESPACE();
namespace wick {
namespace HWY_NAMESPACE {

// Products of a row with kQueries queries: what was read and widened of the row serves all. Two sums for each hide the
// latency.
template <std::size_t kQueries, class T>
HWY_INLINE HWY_ATTR void products(FloatTag d, const T* row, std::size_t columns, const float* queries, float* scores,
                                  std::size_t stride) {
  const std::size_t lanes = hn::Lanes(d);
  FloatVec even[kQueries];
  FloatVec odd[kQueries];
  for (std::size_t q = 0; q < kQueries; ++q) even[q] = odd[q] = hn::Zero(d);
  std::size_t i = 0;
  for (; i + 2 * lanes <= columns; i += 2 * lanes) {
    const auto a = load(d, row + i);
    const auto b = load(d, row + i + lanes);
    for (std::size_t q = 0; q < kQueries; ++q) {
      even[q] = hn::MulAdd(a, load(d, queries + q * columns + i), even[q]);
      odd[q] = hn::MulAdd(b, load(d, queries + q * columns + i + lanes), odd[q]);
    }
  }
  for (; i < columns; i += lanes) {
    const std::size_t n = columns - i < lanes ? columns - i : lanes;
    const auto a = load_some(d, row + i, n);
    for (std::size_t q = 0; q < kQueries; ++q) {
      even[q] = hn::MulAdd(a, load_some(d, queries + q * columns + i, n), even[q]);
    }
  }
  for (std::size_t q = 0; q < kQueries; ++q) {
    scores[q * stride] = hn::GetLane(hn::SumOfLanes(d, hn::Add(even[q], odd[q])));
  }
}

template <class T>
HWY_ATTR void row_products_typed(const T* matrix, std::size_t columns, std::int64_t rows, const float* queries,
                                 std::size_t count, float* scores, std::size_t stride, float* squares) {
  const FloatTag d;
  for (std::int64_t r = 0; r < rows; ++r) {
    const T* const row = matrix + r * static_cast<std::int64_t>(columns);
    squares[r] = sum_row(d, columns, [&](std::size_t i, std::size_t n) HWY_ATTR {
      const auto v = load_some(d, row + i, n);
      return hn::Mul(v, v);
    });
    std::size_t q = 0;
    for (; q + 4 <= count; q += 4) {
      products<4>(d, row, columns, queries + q * columns, scores + q * stride + r, stride);
    }
    for (; q < count; ++q) products<1>(d, row, columns, queries + q * columns, scores + q * stride + r, stride);
  }
}

void row_products_target(const Tensor& matrix, std::int64_t begin, std::int64_t rows, const float* queries,
                         std::size_t count, float* scores, std::size_t stride, float* squares) {
  const auto columns = static_cast<std::size_t>(matrix.size(1));
  const std::int64_t offset = begin * matrix.size(1);
  const auto run = [&](const auto* data) {
    row_products_typed(data + offset, columns, rows, queries, count, scores, stride, squares);
  };
  if (matrix.dtype() == DType::f32) return run(matrix.data<float>());
  if (matrix.dtype() == DType::f16) return run(matrix.data<f16>());
  run(matrix.data<bf16>());
}

}  // namespace HWY_NAMESPACE
}  // namespace wick
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace wick {

HWY_EXPORT(row_products_target);

void row_products(const Tensor& matrix, std::int64_t begin, std::int64_t rows, const float* queries, std::size_t count,
                  float* scores, std::size_t stride, float* squares) {
  HWY_DYNAMIC_DISPATCH(row_products_target)(matrix, begin, rows, queries, count, scores, stride, squares);
}

}  // namespace wick
#endif
