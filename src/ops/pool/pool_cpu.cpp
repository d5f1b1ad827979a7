#include "ops/pool/pool.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/dispatch.h"
#include "core/parallel.h"

namespace wick {
namespace {

double divisor(Pooling mode, std::int64_t tokens) {
  const auto count = static_cast<double>(tokens);
  return mode == Pooling::mean ? count : std::sqrt(count);
}

// One sequence, tokens [begin, end), at least one. Sums are in double and in order.
template <class T>
void pool_one(const Tensor& hidden, std::int64_t begin, std::int64_t end, Pooling mode, T* out, std::int32_t* picked) {
  const std::int64_t n = hidden.size(1);
  const auto row = [&](std::int64_t token) { return hidden.data<T>() + token * hidden.stride(0); };
  if (mode == Pooling::cls || mode == Pooling::last) {
    std::copy_n(row(mode == Pooling::cls ? begin : end - 1), n, out);
  } else if (mode == Pooling::max) {
    std::copy_n(row(begin), n, out);
    std::fill_n(picked, n, static_cast<std::int32_t>(begin));
    for (std::int64_t t = begin + 1; t < end; ++t) {
      for (std::int64_t i = 0; i < n; ++i) {
        if (!(static_cast<float>(row(t)[i]) > static_cast<float>(out[i]))) continue;
        out[i] = row(t)[i];
        picked[i] = static_cast<std::int32_t>(t);
      }
    }
  } else {
    std::vector<double> sums(static_cast<std::size_t>(n), 0.0);
    for (std::int64_t t = begin; t < end; ++t) {
      for (std::int64_t i = 0; i < n; ++i) sums[static_cast<std::size_t>(i)] += static_cast<float>(row(t)[i]);
    }
    const double by = divisor(mode, end - begin);
    for (std::int64_t i = 0; i < n; ++i) out[i] = T(static_cast<float>(sums[static_cast<std::size_t>(i)] / by));
  }
}

template <class T>
void spread_one(const T* dy, std::int64_t begin, std::int64_t end, Pooling mode, const std::int32_t* picked,
                const Tensor& dhidden) {
  const std::int64_t n = dhidden.size(1);
  const auto row = [&](std::int64_t token) { return dhidden.data<T>() + token * n; };
  if (mode == Pooling::mean || mode == Pooling::mean_sqrt) {
    const auto by = static_cast<float>(1 / divisor(mode, end - begin));
    for (std::int64_t i = 0; i < n; ++i) row(begin)[i] = T(static_cast<float>(dy[i]) * by);
    for (std::int64_t t = begin + 1; t < end; ++t) std::copy_n(row(begin), n, row(t));
    return;
  }
  std::fill_n(row(begin), (end - begin) * n, T(0.0F));
  for (std::int64_t i = 0; i < n; ++i) {
    const std::int64_t from = mode == Pooling::max ? picked[i] : mode == Pooling::cls ? begin : end - 1;
    row(from)[i] = dy[i];
  }
}

// body(sequence, begin, end) for each, several at once.
template <class Body>
void each_sequence(const Tensor& offsets, std::int64_t tokens, std::int64_t columns, const Body& body) {
  const std::int64_t sequences = offsets.size(0) - 1;
  const std::int32_t* at = offsets.data<std::int32_t>();
  const std::int64_t grain =
      std::max<std::int64_t>(1, rows_per_piece(columns) * sequences / std::max<std::int64_t>(tokens, 1));
  parallel_for(sequences, grain, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t s = first; s < last; ++s) body(s, std::int64_t{at[s]}, std::int64_t{at[s + 1]});
  });
}

}  // namespace

Declined pool_forward_cpu(const Tensor& hidden, const Tensor& offsets, Pooling mode, const Tensor& y,
                          const Tensor& picked) {
  if (hidden.dtype() == DType::f64) return "f64";
  const std::int64_t n = hidden.size(1);
  visit_narrow(hidden.dtype(), [&](auto tag) {
    using T = decltype(tag);
    each_sequence(offsets, hidden.size(0), n, [&](std::int64_t s, std::int64_t begin, std::int64_t end) {
      T* out = y.data<T>() + s * n;
      std::int32_t* at = picked.defined() ? picked.data<std::int32_t>() + s * n : nullptr;
      if (begin < end) return pool_one(hidden, begin, end, mode, out, at);
      std::fill_n(out, n, T(0.0F));
      if (at != nullptr) std::fill_n(at, n, -1);
    });
  });
  return nullptr;
}

Declined pool_backward_cpu(const Tensor& dy, const Tensor& offsets, Pooling mode, const Tensor& picked,
                           const Tensor& dhidden) {
  if (dy.dtype() == DType::f64) return "f64";
  const std::int64_t n = dy.size(1);
  visit_narrow(dy.dtype(), [&](auto tag) {
    using T = decltype(tag);
    each_sequence(offsets, dhidden.size(0), n, [&](std::int64_t s, std::int64_t begin, std::int64_t end) {
      if (begin == end) return;
      spread_one(dy.data<T>() + s * dy.stride(0), begin, end, mode,
                 picked.defined() ? picked.data<std::int32_t>() + s * n : nullptr, dhidden);
    });
  });
  return nullptr;
}

}  // namespace wick
