#include <numeric>

#include "ops/op.h"

namespace wick {
namespace {

bool has_view(const Tensor& x, const Shape& shape) {
  try {
    (void)x.view(shape);
    return true;
  } catch (const Error&) {
    return false;
  }
}

// `parts` as one tensor where they lie side by side in one dense buffer of its own, as a fused backward leaves them;
// undefined otherwise.
Tensor already_joined(std::span<const Tensor> parts, const Shape& shape, int dim) {
  const Strides strides = contiguous_strides(shape);
  for (std::size_t i = 0; i < parts.size(); ++i) {
    if (!parts[i].defined() || parts[i].numel() == 0 || parts[i].storage() != parts[0].storage()) return {};
    if (parts[i].strides() != strides) return {};
    const std::int64_t before = i == 0 ? 0 : parts[i - 1].size(dim) * strides[dim];
    const auto bytes = static_cast<std::ptrdiff_t>(before) * static_cast<std::ptrdiff_t>(size_of(parts[0].dtype()));
    if (parts[i].raw() != parts[i == 0 ? 0 : i - 1].raw() + bytes) return {};
  }
  return parts.empty() ? Tensor() : parts[0].as_strided(shape, strides);
}

}  // namespace

Tensor reshape(const Tensor& x, const Shape& shape) {
  Tensor y = x.is_contiguous() || has_view(x, shape) ? x.view(shape) : x.contiguous().view(shape);
  record("reshape", {x}, {&y}, [from = x.shape()](std::span<const Tensor> dy, const std::vector<bool>&) {
    return std::vector<Tensor>{reshape(dy[0], from)};
  });
  return y;
}

Tensor permute(const Tensor& x, std::span<const int> order) {
  Tensor y = x.permute(order);
  std::vector<int> inverse(order.size());
  for (std::size_t i = 0; i < order.size(); ++i) {
    inverse[static_cast<std::size_t>(x.shape().wrap(order[i]))] = static_cast<int>(i);
  }
  record("permute", {x}, {&y}, [inverse](std::span<const Tensor> dy, const std::vector<bool>&) {
    return std::vector<Tensor>{dy[0].permute(inverse)};
  });
  return y;
}

Tensor permute(const Tensor& x, std::initializer_list<int> order) {
  return permute(x, std::span(order.begin(), order.size()));
}

Tensor transpose(const Tensor& x, int a, int b) {
  Tensor y = x.transpose(a, b);
  record("transpose", {x}, {&y}, [a, b](std::span<const Tensor> dy, const std::vector<bool>&) {
    return std::vector<Tensor>{dy[0].transpose(a, b)};
  });
  return y;
}

Tensor slice(const Tensor& x, int dim, std::int64_t start, std::int64_t length) {
  Tensor y = x.slice(dim, start, length);
  record("slice", {x}, {&y},
         [shape = x.shape(), dim, start, length](std::span<const Tensor> dy, const std::vector<bool>&) {
           const Tensor dx = Tensor::zeros(shape, dy[0].dtype(), dy[0].device());
           dx.slice(dim, start, length).copy_from(dy[0]);
           return std::vector<Tensor>{dx};
         });
  return y;
}

Tensor expand(const Tensor& x, const Shape& shape) {
  Tensor y = x.expand(shape);
  record("expand", {x}, {&y}, [from = x.shape()](std::span<const Tensor> dy, const std::vector<bool>&) {
    Tensor dx = dy[0];
    while (dx.rank() > from.rank()) dx = sum(dx, 0);
    for (int i = 0; i < from.rank(); ++i) {
      if (from[i] == 1 && dx.size(i) != 1) dx = sum(dx, i, true);
    }
    return std::vector<Tensor>{dx};
  });
  return y;
}

Tensor concat(std::span<const Tensor> parts, int dim) {
  if (parts.empty()) fail(ErrorCode::invalid_argument, "[concat] no tensors");
  Shape shape = parts[0].shape();
  const int at = shape.wrap(dim);
  std::vector<std::int64_t> sizes;
  for (const Tensor& part : parts) {
    check_same_dtype("concat", parts[0], "a part", part);
    Shape other = part.shape();
    if (other.rank() == shape.rank()) other[at] = shape[at];
    if (other != shape) {
      fail(ErrorCode::invalid_argument, "[concat] shapes {} and {} differ outside dimension {}",
           to_string(parts[0].shape()), to_string(part.shape()), at);
    }
    sizes.push_back(part.size(at));
  }
  shape[at] = std::accumulate(sizes.begin(), sizes.end(), std::int64_t{0});
  Tensor y = Tensor::empty(shape, parts[0].dtype(), parts[0].device());
  std::int64_t start = 0;
  for (const Tensor& part : parts) {
    y.slice(at, start, part.size(at)).copy_from(part);
    start += part.size(at);
  }
  Tensor* outputs[] = {&y};
  record("concat", parts, outputs, [sizes, at](std::span<const Tensor> dy, const std::vector<bool>&) {
    std::vector<Tensor> grads;
    std::int64_t begin = 0;
    for (const std::int64_t size : sizes) {
      grads.push_back(dy[0].slice(at, begin, size));
      begin += size;
    }
    return grads;
  });
  return y;
}

std::vector<Tensor> split(const Tensor& x, int dim, std::span<const std::int64_t> sizes) {
  const int at = x.shape().wrap(dim);
  std::vector<Tensor> parts;
  std::int64_t start = 0;
  for (const std::int64_t size : sizes) {
    parts.push_back(x.slice(at, start, size));
    start += size;
  }
  if (start != x.size(at)) {
    fail(ErrorCode::invalid_argument, "[split] sizes add up to {}, dimension {} has {}", start, at, x.size(at));
  }
  std::vector<Tensor*> outputs;
  for (Tensor& part : parts) outputs.push_back(&part);
  const Tensor inputs[] = {x};
  record("split", inputs, outputs,
         [shape = x.shape(), at, dtype = x.dtype(), device = x.device(),
          all = std::vector<std::int64_t>(sizes.begin(), sizes.end())](std::span<const Tensor> dy,
                                                                       const std::vector<bool>&) {
           if (const Tensor whole = already_joined(dy, shape, at); whole.defined()) return std::vector<Tensor>{whole};
           const Tensor dx = Tensor::empty(shape, dtype, device);
           std::int64_t begin = 0;
           for (std::size_t i = 0; i < all.size(); ++i) {
             const Tensor part = dx.slice(at, begin, all[i]);
             part.copy_from(dy[i].defined() ? dy[i] : Tensor::zeros({}, dtype, device).expand(part.shape()));
             begin += all[i];
           }
           return std::vector<Tensor>{dx};
         });
  return parts;
}

}  // namespace wick
