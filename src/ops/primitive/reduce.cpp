#include <limits>

#include "backend/backend.h"
#include "core/dispatch.h"
#include "core/parallel.h"
#include "core/strided.h"
#include "ops/op.h"

namespace wick {
namespace {

// y[...] = combine over `dim`, in double: one serial chain, so float32 would lose digits on a vocabulary's worth of
// terms. x is walked in any strides.
template <class Combine>
Tensor reduce(Reduction op, const Tensor& x, int dim, double start, const Combine& combine) {
  const int at = x.shape().wrap(dim);
  Shape shape = x.shape();
  shape[at] = 1;
  Tensor y = Tensor::empty(shape, x.dtype(), x.device());
  if (Backend* device = accelerator(x)) {
    device->reduce(op, x, at, y);
    return y;
  }
  visit_floating(x.dtype(), [&](auto tag) {
    using T = decltype(tag);
    const std::int64_t count = x.size(at);
    const std::int64_t step = x.stride(at);
    const T* px = x.numel() == 0 ? nullptr : x.data<T>();
    T* py = y.data<T>();
    parallel_for(y.numel(), rows_per_piece(count), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        std::int64_t rest = i;
        std::int64_t offset = 0;
        for (int d = shape.rank() - 1; d >= 0; --d) {
          offset += (rest % shape[d]) * x.stride(d);
          rest /= shape[d];
        }
        double value = start;
        for (std::int64_t k = 0; k < count; ++k) value = combine(value, convert<double>(px[offset + k * step]));
        py[i] = convert<T>(value);
      }
    });
  });
  return y;
}

Tensor drop_dim(const Tensor& x, int dim) {
  Shape shape = x.shape();
  shape.erase(dim);
  return x.view(shape);
}

}  // namespace

Tensor sum(const Tensor& x, int dim, bool keep_dim) {
  check_floating("sum", "x", x);
  Tensor y = reduce(Reduction::sum, x, dim, 0.0, [](auto a, auto b) { return a + b; });
  const Shape kept = y.shape();
  if (!keep_dim) y = drop_dim(y, dim);
  record("sum", {x}, {&y}, [kept, shape = x.shape()](std::span<const Tensor> dy, const std::vector<bool>&) {
    return std::vector<Tensor>{dy[0].contiguous().view(kept).expand(shape)};
  });
  return y;
}

Tensor sum(const Tensor& x) { return sum(reshape(x, {-1}), 0); }

Tensor mean(const Tensor& x, int dim, bool keep_dim) {
  return mul(sum(x, dim, keep_dim), 1.0 / static_cast<double>(x.size(dim)));
}

Tensor max(const Tensor& x, int dim, bool keep_dim) {
  check_floating("max", "x", x);
  if (x.size(dim) == 0) fail(ErrorCode::invalid_argument, "[max] dimension {} of {} is empty", dim, describe(x));
  const Tensor y = reduce(Reduction::max, x, dim, -std::numeric_limits<double>::infinity(),
                          [](auto a, auto b) { return b > a ? b : a; });
  return keep_dim ? y : drop_dim(y, dim);
}

}  // namespace wick
