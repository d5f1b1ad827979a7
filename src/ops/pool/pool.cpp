#include "ops/pool/pool.h"
#include "ops/op.h"

#include <cmath>

namespace wick {

Kernels<PoolForward> pool_forward{{pool_forward_cpu}};
Kernels<PoolBackward> pool_backward{{pool_backward_cpu}};

namespace {

// The largest of each column, by a gather that knows where they stand: max() has no gradient.
Tensor largest(const Tensor& rows) {
  const std::int64_t n = rows.size(1);
  const std::vector<double> values = rows.detach().to(DType::f64).to_vector<double>();
  std::vector<std::int32_t> places(static_cast<std::size_t>(n));
  for (std::size_t column = 0; column < places.size(); ++column) {
    std::size_t best = column;
    for (std::size_t i = column; i < values.size(); i += places.size()) {
      if (values[i] > values[best]) best = i;
    }
    places[column] = static_cast<std::int32_t>(best);
  }
  const Tensor chosen = gather_rows(reshape(rows, {-1, 1}), Tensor::from(places, {n}).to(rows.device()));
  return reshape(chosen, {1, n});
}

// One sequence.
Tensor pool_rows(const Tensor& rows, Pooling mode) {
  const std::int64_t tokens = rows.size(0);
  if (tokens == 0) return sum(rows, 0, true);
  if (mode == Pooling::cls) return slice(rows, 0, 0, 1);
  if (mode == Pooling::last) return slice(rows, 0, tokens - 1, 1);
  if (mode == Pooling::max) return largest(rows);
  const auto count = static_cast<double>(tokens);
  return mul(sum(rows, 0, true), 1 / (mode == Pooling::mean ? count : std::sqrt(count)));
}

Tensor composite(const Tensor& hidden, const Tensor& offsets, Pooling mode) {
  const Tensor wide = cast(hidden, hidden.dtype() == DType::f64 ? DType::f64 : DType::f32);
  // A device is waited for here: the pieces depend on the values.
  const std::vector<std::int32_t> at = offsets.to_vector<std::int32_t>();
  std::vector<Tensor> parts;
  for (std::size_t s = 0; s + 1 < at.size(); ++s) {
    parts.push_back(pool_rows(slice(wide, 0, at[s], at[s + 1] - at[s]), mode));
  }
  return cast(concat(parts, 0), hidden.dtype());
}

// What the backward pass needs; values only where the gradient depends on them, which is for max.
struct Saved {
  Shape shape;
  Tensor hidden, offsets, picked;
  Pooling mode;
};

Tensor gradient(const Saved& saved, const Tensor& dy) {
  const Tensor dhidden = Tensor::empty(saved.shape, dy.dtype(), dy.device());
  if (run_kernel("pool", pool_backward, dy.device(), as_rows(dy), saved.offsets, saved.mode, saved.picked, dhidden)) {
    return dhidden;
  }
  const Tensor values = saved.hidden.defined() ? saved.hidden : Tensor::zeros(saved.shape, dy.dtype(), dy.device());
  return composite_gradients(
      [&](std::span<const Tensor> in) { return std::vector{composite(in[0], saved.offsets, saved.mode)}; },
      std::span(&values, 1), std::span(&dy, 1), {true})[0];
}

}  // namespace

Tensor pool(const Tensor& hidden, const Tensor& offsets, Pooling mode) {
  check_floating("pool", "hidden", hidden);
  if (hidden.rank() != 2) fail(ErrorCode::invalid_argument, "[pool] hidden must be a matrix, is {}", describe(hidden));
  const Tensor at = checked_offsets("pool", "offsets", offsets, hidden.size(0));
  check_same_device("pool", hidden, "offsets", at);
  const bool max = mode == Pooling::max;
  Tensor y = Tensor::empty({at.numel() - 1, hidden.size(1)}, hidden.dtype(), hidden.device());
  const Tensor picked = max ? Tensor::empty(y.shape(), DType::i32, hidden.device()) : Tensor();
  if (!run_kernel("pool", pool_forward, hidden.device(), as_rows(hidden.detach()), at, mode, y, picked)) {
    return composite(hidden, at, mode);
  }
  record("pool", {hidden}, {&y},
         [saved = Saved{hidden.shape(), max ? hidden.detach() : Tensor(), at, picked, mode}](std::span<const Tensor> dy,
                                                                                             const std::vector<bool>&) {
           return std::vector<Tensor>{gradient(saved, dy[0])};
         });
  return y;
}

}  // namespace wick
