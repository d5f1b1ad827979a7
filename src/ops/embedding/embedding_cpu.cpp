#include "ops/embedding/embedding.h"
#include "ops/op.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/embedding/embedding_cpu.cpp"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <vector>

#include "backend/cpu/simd-inl.h"
#include "core/dispatch.h"
#include "core/parallel.h"

HWY_BEFORE_NAMESPACE();
namespace wick {
namespace HWY_NAMESPACE {

template <class T>
HWY_ATTR void sum_rows_as(const Tensor& dy, const std::int64_t* rows, std::int64_t count, float* total, T* result) {
  const FloatTag d;
  const auto n = static_cast<std::size_t>(dy.size(1));
  std::fill_n(total, n, 0.0F);
  for (std::int64_t r = 0; r < count; ++r) {
    const T* g = dy.data<T>() + rows[r] * dy.stride(0);
    each_vector(d, n, [&](std::size_t i, std::size_t k) HWY_ATTR {
      store_some(d, hn::Add(load_some(d, total + i, k), load_some(d, g + i, k)), total + i, k);
    });
  }
  each_vector(d, n,
              [&](std::size_t i, std::size_t k) HWY_ATTR { store_some(d, load_some(d, total + i, k), result + i, k); });
}

// Row `id` of dtable = the sum of the given rows of dy, in order; `total` is scratch for one row.
void sum_rows(const Tensor& dy, const std::int64_t* rows, std::int64_t count, std::vector<float>& total,
              const Tensor& dtable, std::int64_t id) {
  visit_narrow(dy.dtype(), [&](auto tag) {
    using T = decltype(tag);
    sum_rows_as<T>(dy, rows, count, total.data(), dtable.data<T>() + id * dtable.stride(0));
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace wick
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace wick {

HWY_EXPORT(sum_rows);

Declined embedding_forward_cpu(const Tensor& table, const Tensor& ids, const Tensor& y) {
  if (table.stride(1) != 1 && table.size(1) != 1) return "a table with strided columns";
  const std::size_t element = size_of(table.dtype());
  const std::size_t bytes = static_cast<std::size_t>(table.size(1)) * element;
  if (bytes == 0) return nullptr;
  const std::size_t step = static_cast<std::size_t>(table.stride(0)) * element;
  const std::int32_t* at = ids.data<std::int32_t>();
  parallel_for(ids.size(0), rows_per_piece(table.size(1)), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      std::memcpy(y.raw() + static_cast<std::size_t>(i) * bytes, table.raw() + static_cast<std::size_t>(at[i]) * step,
                  bytes);
    }
  });
  return nullptr;
}

Declined embedding_backward_cpu(const Tensor& dy, const Tensor& ids, const Tensor& dtable) {
  if (dy.dtype() == DType::f64) return "f64";
  const std::int32_t* id = ids.data<std::int32_t>();
  // Tokens of one id side by side and in order, so that each row of the table is summed once, by one thread.
  std::vector<std::int64_t> order(static_cast<std::size_t>(dy.size(0)));
  std::iota(order.begin(), order.end(), std::int64_t{0});
  std::stable_sort(order.begin(), order.end(), [id](std::int64_t a, std::int64_t b) { return id[a] < id[b]; });
  std::vector<std::size_t> starts;
  for (std::size_t i = 0; i < order.size(); ++i) {
    if (i == 0 || id[order[i]] != id[order[i - 1]]) starts.push_back(i);
  }
  const auto groups = static_cast<std::int64_t>(starts.size());
  starts.push_back(order.size());
  parallel_for(groups, rows_per_piece(dy.size(1)), [&](std::int64_t begin, std::int64_t end) {
    std::vector<float> total(static_cast<std::size_t>(dy.size(1)));
    for (std::int64_t g = begin; g < end; ++g) {
      const std::size_t first = starts[static_cast<std::size_t>(g)];
      const std::size_t count = starts[static_cast<std::size_t>(g) + 1] - first;
      HWY_DYNAMIC_DISPATCH(sum_rows)
      (dy, order.data() + first, static_cast<std::int64_t>(count), total, dtable, id[order[first]]);
    }
  });
  return nullptr;
}

}  // namespace wick
#endif
