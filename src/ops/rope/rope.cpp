#include "ops/rope/rope.h"
#include "ops/op.h"

#include <algorithm>
#include <memory>

namespace wick {

Kernels<RopeRotate> rope_rotate{{rope_rotate_cpu}};

namespace {

Tensor composite(const Tensor& x, const Tensor& cos, const Tensor& sin, const Tensor& positions) {
  const std::int64_t half = x.size(-1) / 2;
  const auto angles = [&](const Tensor& table) {
    const Tensor rows = positions.defined() ? gather_rows(table, positions) : table;
    return reshape(rows, {x.size(0), 1, half});
  };
  const Tensor c = angles(cos);
  const Tensor s = angles(sin);
  const Tensor wide = cast(x, cos.dtype());
  const Tensor low = slice(wide, -1, 0, half);
  const Tensor high = slice(wide, -1, half, half);
  const Tensor turned[] = {sub(mul(low, c), mul(high, s)), add(mul(high, c), mul(low, s))};
  return cast(concat(turned, -1), x.dtype());
}

Tensor dense_columns(const Tensor& x) {
  if (x.stride(-1) == 1 || x.numel() == 0) return x;
  const CopyScope scope(x.device());
  return x.contiguous();
}

// Written to dx, which may be dy.
Tensor gradient(const Tensor& dy, const Tensor& cos, const Tensor& sin, const Tensor& positions, const Tensor& dx) {
  if (run_kernel("rope", rope_rotate, dy.device(), dense_columns(dy), cos, sin, positions, true, dx)) return dx;
  return composite(dy, cos, mul(sin, -1.0), positions);
}

void check_table(const Tensor& x, const char* what, const Tensor& table) {
  const DType wanted = x.dtype() == DType::f64 ? DType::f64 : DType::f32;
  if (!table.defined() || table.dtype() != wanted || table.rank() != 2 || table.size(1) != x.size(2) / 2) {
    fail(ErrorCode::invalid_argument, "[rope] {} is {}, expected {} [positions, {}]", what, describe(table),
         to_string(wanted), x.size(2) / 2);
  }
  check_same_device("rope", x, what, table);
}

void check(const Tensor& x, const Tensor& cos, const Tensor& sin) {
  check_floating("rope", "x", x);
  if (x.rank() != 3 || x.size(2) % 2 != 0) {
    fail(ErrorCode::invalid_argument, "[rope] x is {}, expected [tokens, heads, d] with an even d", describe(x));
  }
  check_table(x, "cos", cos);
  check_table(x, "sin", sin);
  check_same_shape("rope", "cos", cos, "sin", sin);
}

// Position t is row positions[t] of the tables, or row t where positions is undefined. In place, y is x's memory, and
// the gradient that reaches it is turned back where it lies if it lies where x's would best be.
Tensor rotate(const Tensor& x, const Tensor& cos, const Tensor& sin, const Tensor& positions, bool in_place) {
  const Tensor from = dense_columns(x.detach());
  Tensor y = in_place ? from.detach() : Tensor::empty(x.shape(), x.dtype(), x.device());
  if (!run_kernel("rope", rope_rotate, x.device(), from, cos, sin, positions, false, y)) {
    return composite(x, cos, sin, positions);
  }
  if (!recording({x})) return y;
  const auto lent = std::make_shared<Tensor>();
  record("rope", {x}, {&y},
         [cos, sin, positions, lent, place = GradPlace(x)](std::span<const Tensor> dy, const std::vector<bool>&) {
           const bool there = lent->defined() && lent->raw() == dy[0].raw() && lent->strides() == dy[0].strides();
           return std::vector<Tensor>{gradient(dy[0], cos, sin, positions, there ? dy[0] : place.empty())};
         });
  if (in_place) place_gradient(y, [lent, place = GradPlace(x)] { return *lent = place.empty(); });
  return y;
}

// What both forms with positions check and pass on.
Tensor rotate_at(const Tensor& x, const Tensor& cos, const Tensor& sin, const Tensor& positions, bool in_place) {
  check(x, cos, sin);
  const Tensor at = checked_indices("rope", "positions", positions, cos.size(0));
  if (at.size(0) != x.size(0)) {
    fail(ErrorCode::invalid_argument, "[rope] {} positions for {} tokens", at.size(0), x.size(0));
  }
  check_same_device("rope", x, "positions", at);
  return rotate(x, cos.detach().contiguous(), sin.detach().contiguous(), at, in_place);
}

}  // namespace

Tensor rope(const Tensor& x, const Tensor& cos, const Tensor& sin, const Tensor& positions) {
  return rotate_at(x, cos, sin, positions, false);
}

Tensor rope_(const Tensor& x, const Tensor& cos, const Tensor& sin, const Tensor& positions) {
  return rotate_at(x, cos, sin, positions, true);
}

Tensor rope(const Tensor& x, const Tensor& cos, const Tensor& sin, std::int64_t offset) {
  check(x, cos, sin);
  const std::int64_t tokens = x.size(0);
  if (offset < 0) fail(ErrorCode::invalid_argument, "[rope] offset is {}, expected 0 or more", offset);
  if (tokens > cos.size(0) || offset > cos.size(0) - tokens) {
    fail(ErrorCode::invalid_argument, "[rope] position {} is outside the table of {} positions",
         std::max(offset, cos.size(0)), cos.size(0));
  }
  return rotate(x, cos.slice(0, offset, tokens).contiguous(), sin.slice(0, offset, tokens).contiguous(), Tensor(),
                false);
}

}  // namespace wick
