#include "ops/linear/packed_linear.h"
#include "ops/op.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/linear/packed_linear_cpu.cpp"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"

#include "backend/cpu/simd-inl.h"
#include "core/dispatch.h"
#include "ops/gelu/gelu_cpu-inl.h"

HWY_BEFORE_NAMESPACE();
namespace wick {
namespace HWY_NAMESPACE {

template <class T>
HWY_ATTR void finish_rows(const PackedWeight::Tile& tile, const Tensor& bias, std::optional<GeluKind> gelu,
                          const Tensor& y) {
  const FloatTag d;
  const T* b = bias.defined() ? bias.data<T>() + tile.column : nullptr;
  for (std::int64_t r = 0; r < tile.rows; ++r) {
    const float* from = tile.values + r * tile.columns;
    T* to = y.data<T>() + (tile.row + r) * y.stride(0) + tile.column;
    each_vector(d, static_cast<std::size_t>(tile.columns), [&](std::size_t i, std::size_t k) HWY_ATTR {
      auto v = load_some(d, from + i, k);
      if (b != nullptr) v = hn::Add(v, load_some(d, b + i, k));
      if (gelu) v = gelu_value(d, v, *gelu);
      store_some(d, v, to + i, k);
    });
  }
}

void finish(const PackedWeight::Tile& tile, const Tensor& bias, std::optional<GeluKind> gelu, const Tensor& y) {
  visit_narrow(y.dtype(), [&](auto tag) { finish_rows<decltype(tag)>(tile, bias, gelu, y); });
}

}  // namespace HWY_NAMESPACE
}  // namespace wick
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace wick {

HWY_EXPORT(finish);

Tensor packed_linear(const Tensor& x, const PackedWeight& weight, const Tensor& bias, std::optional<GeluKind> gelu) {
  if (x.rank() != 2 || x.size(1) != weight.columns() || x.dtype() != weight.dtype() ||
      x.device().type != DeviceType::cpu) {
    fail(ErrorCode::invalid_argument, "[packed_linear] x is {}, the weight {} [{}, {}]", describe(x),
         to_string(weight.dtype()), weight.rows(), weight.columns());
  }
  if (bias.defined() && (bias.rank() != 1 || bias.size(0) != weight.rows() || bias.dtype() != x.dtype())) {
    fail(ErrorCode::invalid_argument, "[packed_linear] bias is {}, expected {} [{}]", describe(bias),
         to_string(x.dtype()), weight.rows());
  }
  const Tensor y = Tensor::empty({x.size(0), weight.rows()}, x.dtype());
  const Tensor dense = bias.defined() ? bias.detach().contiguous() : bias;
  weight.multiply(x.detach().contiguous(), [&](const PackedWeight::Tile& tile) {
    HWY_DYNAMIC_DISPATCH(finish)(tile, dense, gelu, y);
  });
  return y;
}

}  // namespace wick
#endif
