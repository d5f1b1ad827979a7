#include "backend/backend.h"
#include "core/dispatch.h"
#include "core/parallel.h"
#include "core/rng.h"
#include "core/strided.h"
#include "ops/op.h"

namespace wick {
namespace {

Tensor apply(const Tensor& x, const Dropout& options) {
  const Tensor in = x.contiguous();
  Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device());
  if (Backend* device = accelerator(x)) {
    device->dropout(in, options, y);
    return y;
  }
  const RandomStream stream{RandomPurpose::dropout, options.module};
  const std::uint64_t first = static_cast<std::uint64_t>(options.pass) << 32;
  visit_floating(x.dtype(), [&](auto tag) {
    using T = decltype(tag);
    using S = Accumulator<T>;
    const S keep = static_cast<S>(1.0 / (1.0 - options.p));
    const T* from = in.data<T>();
    T* to = y.data<T>();
    const std::int64_t count = x.numel();
    parallel_for((count + 3) / 4, 4096, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t block = begin; block < end; ++block) {
        const auto words = random_block(options.seed, stream, first + static_cast<std::uint64_t>(block));
        for (std::int64_t i = block * 4; i < std::min(count, block * 4 + 4); ++i) {
          const bool kept = static_cast<double>(unit_float(words[static_cast<std::size_t>(i % 4)])) >= options.p;
          to[i] = kept ? convert<T>(convert<S>(from[i]) * keep) : T{};
        }
      }
    });
  });
  return y;
}

}  // namespace

Tensor dropout(const Tensor& x, const Dropout& options) {
  check_floating("dropout", "x", x);
  if (!(options.p >= 0 && options.p < 1))
    fail(ErrorCode::invalid_argument, "[dropout] p is {}, expected [0, 1)", options.p);
  if (x.numel() >= std::int64_t{1} << 34) {
    fail(ErrorCode::invalid_argument, "[dropout] x has {} elements, at most 2^34 are supported", x.numel());
  }
  if (options.p == 0) return x;
  Tensor y = apply(x.detach(), options);
  record("dropout", {x}, {&y}, [options](std::span<const Tensor> dy, const std::vector<bool>&) {
    return std::vector<Tensor>{apply(dy[0], options)};
  });
  return y;
}

}  // namespace wick
