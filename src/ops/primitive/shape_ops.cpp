#include <algorithm>
#include <memory>
#include <numeric>
#include <utility>

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

bool same_memory(const Tensor& a, const Tensor& b) {
  return a.storage() == b.storage() && a.raw() == b.raw() && a.shape() == b.shape() && a.strides() == b.strides();
}

// The gradient of a tensor that was cut into pieces along `dim`. Whoever makes the gradient of a piece may write it
// straight into that of the whole.
class JointGradient {
 public:
  JointGradient(const Tensor& x, int dim, std::span<const std::int64_t> sizes)
      : place_(x), shape_(x.shape()), dim_(dim), sizes_(sizes.begin(), sizes.end()), lent_(sizes.size()) {}

  Tensor piece(std::size_t i) {
    if (!whole_.defined()) whole_ = place_.empty();
    lent_[i] = true;
    return cut(whole_, i);
  }

  Tensor join(std::span<const Tensor> parts) {
    Tensor whole = whole_.defined() ? std::exchange(whole_, {}) : place_.empty();
    std::vector<bool> there(parts.size());
    for (std::size_t i = 0; i < parts.size(); ++i) {
      there[i] = parts[i].defined() && same_memory(parts[i], cut(whole, i));
    }
    if (std::ranges::find(there, false) == there.end()) return whole;
    const CopyScope scope(whole.device());
    // A piece that was lent and did not come back may be part of another gradient: it is not written to.
    for (std::size_t i = 0; i < parts.size(); ++i) {
      if (!lent_[i] || there[i]) continue;
      whole = Tensor::empty(shape_, whole.dtype(), whole.device());
      there.assign(parts.size(), false);
      break;
    }
    for (std::size_t i = 0; i < parts.size(); ++i) {
      if (there[i]) continue;
      const Tensor to = cut(whole, i);
      to.copy_from(parts[i].defined() ? parts[i] : Tensor::zeros({}, to.dtype(), to.device()).expand(to.shape()));
    }
    return whole;
  }

 private:
  Tensor cut(const Tensor& whole, std::size_t i) const {
    const std::int64_t begin =
        std::accumulate(sizes_.begin(), sizes_.begin() + static_cast<std::ptrdiff_t>(i), std::int64_t{0});
    return whole.slice(dim_, begin, sizes_[i]);
  }

  GradPlace place_;
  Shape shape_;
  int dim_;
  std::vector<std::int64_t> sizes_;
  std::vector<bool> lent_;
  Tensor whole_;  // from the first piece that is asked for, until they are joined
};

}  // namespace

Tensor reshape(const Tensor& x, const Shape& shape) {
  Tensor y = x.is_contiguous() || has_view(x, shape) ? x.view(shape) : x.contiguous().view(shape);
  record("reshape", {x}, {&y}, [from = x.shape()](std::span<const Tensor> dy, const std::vector<bool>&) {
    return std::vector<Tensor>{reshape(dy[0], from)};
  });
  place_gradient(y, [place = GradPlace(x), shape = y.shape()] {
    const Tensor dx = place.empty();
    return has_view(dx, shape) ? dx.view(shape) : Tensor::empty(shape, dx.dtype(), dx.device());
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
  if (!recording(inputs)) return parts;
  const auto joint = std::make_shared<JointGradient>(x, at, sizes);
  record("split", inputs, outputs, [joint](std::span<const Tensor> dy, const std::vector<bool>&) {
    return std::vector<Tensor>{joint->join(dy)};
  });
  for (std::size_t i = 0; i < parts.size(); ++i) place_gradient(parts[i], [joint, i] { return joint->piece(i); });
  return parts;
}

}  // namespace wick
