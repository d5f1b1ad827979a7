#include "backend/backend.h"
#include "core/dispatch.h"
#include "core/strided.h"
#include "ops/op.h"
#include "ops/primitive/functions.h"
#include "ops/primitive/reduce_to.h"

namespace wick {
namespace {

// y = op(a, b), computed in the accumulator type of the dtype.
Tensor binary(const char* name, Binary op, const Tensor& a, const Tensor& b) {
  check_floating(name, "a", a);
  check_same_dtype(name, a, "b", b);
  check_same_device(name, a, "b", b);
  const Shape shape = broadcast(a.shape(), b.shape());
  Tensor y = Tensor::empty(shape, a.dtype(), a.device());
  if (Backend* device = accelerator(a)) {
    device->binary(op, a.expand(shape), b.expand(shape), y);
    return y;
  }
  visit_floating(a.dtype(), [&](auto tag) {
    using T = decltype(tag);
    using S = Accumulator<T>;
    visit(op, [&](auto constant) {
      for_each_strided<const T, const T, T>(a.expand(shape), b.expand(shape), y, [](const T& p, const T& q, T& r) {
        r = convert<T>(apply<decltype(constant)::value>(convert<S>(p), convert<S>(q)));
      });
    });
  });
  return y;
}

Tensor unary(const char* name, Unary op, const Tensor& x, double value = 0) {
  check_floating(name, "x", x);
  Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device());
  if (Backend* device = accelerator(x)) {
    device->unary(op, x, value, y);
    return y;
  }
  visit_floating(x.dtype(), [&](auto tag) {
    using T = decltype(tag);
    using S = Accumulator<T>;
    visit(op, [&](auto constant) {
      for_each_strided<const T, T>(x, y, [second = static_cast<S>(value)](const T& p, T& r) {
        r = convert<T>(apply<decltype(constant)::value>(convert<S>(p), second));
      });
    });
  });
  return y;
}

// Records y = f(x) whose gradient is dy * slope(x, y).
template <class Slope>
Tensor record_unary(const char* op, const Tensor& x, Tensor y, Slope slope) {
  record(op, {x}, {&y}, [x = x.detach(), y, slope](std::span<const Tensor> dy, const std::vector<bool>&) {
    return std::vector<Tensor>{mul(dy[0], slope(x, y))};
  });
  return y;
}

}  // namespace

Tensor reduce_to(const Tensor& x, const Shape& shape) {
  Tensor y = x;
  while (y.rank() > shape.rank()) y = sum(y, 0);
  for (int i = 0; i < shape.rank(); ++i) {
    if (shape[i] == 1 && y.size(i) != 1) y = sum(y, i, true);
  }
  return y;
}

Tensor add(const Tensor& a, const Tensor& b) {
  Tensor y = binary("add", Binary::add, a, b);
  record("add", {a, b}, {&y},
         [sa = a.shape(), sb = b.shape()](std::span<const Tensor> dy, const std::vector<bool>& needs) {
           return std::vector<Tensor>{needs[0] ? reduce_to(dy[0], sa) : Tensor(),
                                      needs[1] ? reduce_to(dy[0], sb) : Tensor()};
         });
  return y;
}

Tensor sub(const Tensor& a, const Tensor& b) {
  Tensor y = binary("sub", Binary::sub, a, b);
  record("sub", {a, b}, {&y},
         [sa = a.shape(), sb = b.shape()](std::span<const Tensor> dy, const std::vector<bool>& needs) {
           return std::vector<Tensor>{needs[0] ? reduce_to(dy[0], sa) : Tensor(),
                                      needs[1] ? reduce_to(mul(dy[0], -1.0), sb) : Tensor()};
         });
  return y;
}

Tensor mul(const Tensor& a, const Tensor& b) {
  Tensor y = binary("mul", Binary::mul, a, b);
  record("mul", {a, b}, {&y},
         [a = a.detach(), b = b.detach()](std::span<const Tensor> dy, const std::vector<bool>& needs) {
           return std::vector<Tensor>{needs[0] ? reduce_to(mul(dy[0], b), a.shape()) : Tensor(),
                                      needs[1] ? reduce_to(mul(dy[0], a), b.shape()) : Tensor()};
         });
  return y;
}

Tensor div(const Tensor& a, const Tensor& b) {
  Tensor y = binary("div", Binary::div, a, b);
  record("div", {a, b}, {&y},
         [y, sa = a.shape(), b = b.detach()](std::span<const Tensor> dy, const std::vector<bool>& needs) {
           const Tensor da = div(dy[0], b);
           return std::vector<Tensor>{needs[0] ? reduce_to(da, sa) : Tensor(),
                                      needs[1] ? reduce_to(mul(mul(da, y), -1.0), b.shape()) : Tensor()};
         });
  return y;
}

Tensor add(const Tensor& x, double value) {
  Tensor y = unary("add", Unary::add, x, value);
  record("add", {x}, {&y},
         [](std::span<const Tensor> dy, const std::vector<bool>&) { return std::vector<Tensor>{dy[0]}; });
  return y;
}

Tensor mul(const Tensor& x, double value) {
  Tensor y = unary("mul", Unary::mul, x, value);
  record("mul", {x}, {&y}, [value](std::span<const Tensor> dy, const std::vector<bool>&) {
    return std::vector<Tensor>{mul(dy[0], value)};
  });
  return y;
}

Tensor exp(const Tensor& x) {
  return record_unary("exp", x, unary("exp", Unary::exp, x), [](const Tensor&, const Tensor& y) { return y; });
}

Tensor log(const Tensor& x) {
  return record_unary("log", x, unary("log", Unary::log, x),
                      [](const Tensor& x, const Tensor&) { return unary("log", Unary::reciprocal, x); });
}

Tensor sqrt(const Tensor& x) {
  return record_unary("sqrt", x, unary("sqrt", Unary::sqrt, x),
                      [](const Tensor&, const Tensor& y) { return unary("sqrt", Unary::sqrt_slope, y); });
}

Tensor tanh(const Tensor& x) {
  return record_unary("tanh", x, unary("tanh", Unary::tanh, x),
                      [](const Tensor&, const Tensor& y) { return unary("tanh", Unary::tanh_slope, y); });
}

Tensor erf(const Tensor& x) {
  return record_unary("erf", x, unary("erf", Unary::erf, x),
                      [](const Tensor& x, const Tensor&) { return unary("erf", Unary::erf_slope, x); });
}

Tensor sigmoid(const Tensor& x) {
  return record_unary("sigmoid", x, unary("sigmoid", Unary::sigmoid, x),
                      [](const Tensor&, const Tensor& y) { return unary("sigmoid", Unary::sigmoid_slope, y); });
}

Tensor cast(const Tensor& x, DType dtype) {
  check_floating("cast", "x", x);
  if (x.dtype() == dtype) return x;
  Tensor y = x.detach().to(dtype);
  record("cast", {x}, {&y}, [from = x.dtype()](std::span<const Tensor> dy, const std::vector<bool>&) {
    return std::vector<Tensor>{dy[0].to(from)};
  });
  return y;
}

Tensor where(const Tensor& mask, const Tensor& x, double value) {
  check_floating("where", "x", x);
  if (!mask.defined() || mask.dtype() != DType::i32) {
    fail(ErrorCode::invalid_argument, "[where] mask must be i32, is {}", describe(mask));
  }
  check_same_device("where", x, "mask", mask);
  const Tensor wide = mask.expand(x.shape());
  const auto select = [](const Tensor& condition, const Tensor& source, double otherwise) {
    Tensor y = Tensor::empty(source.shape(), source.dtype(), source.device());
    if (Backend* device = accelerator(source)) {
      device->where(condition, source, otherwise, y);
      return y;
    }
    visit_floating(source.dtype(), [&](auto tag) {
      using T = decltype(tag);
      const T other = convert<T>(otherwise);
      for_each_strided<const std::int32_t, const T, T>(
          condition, source, y, [other](const std::int32_t& m, const T& p, T& r) { r = m != 0 ? p : other; });
    });
    return y;
  };
  Tensor y = select(wide, x, value);
  record("where", {x}, {&y}, [wide, select](std::span<const Tensor> dy, const std::vector<bool>&) {
    return std::vector<Tensor>{select(wide, dy[0], 0.0)};
  });
  return y;
}

}  // namespace wick
