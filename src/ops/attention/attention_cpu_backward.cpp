// The gradients of tiled attention: Dao 2023 (FlashAttention-2), algorithm 2, one unit of work per sequence and query
// head. Weights are recomputed from the saved log-sum-exp; a head's dk and dv go to rows of its own and are added over
// the heads of a group in order afterwards, so that results do not depend on the number of threads.
#include "ops/attention/attention_cpu.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/attention/attention_cpu_backward.cpp"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"

#include <numbers>

#include "core/dispatch.h"
#include "ops/attention/attention_cpu-inl.h"

#ifndef WICK_OPS_ATTENTION_CPU_BACKWARD_ARGUMENTS
#define WICK_OPS_ATTENTION_CPU_BACKWARD_ARGUMENTS
namespace wick {

struct BackwardArguments {
  const Tensor& dy;
  const Tensor& q;
  const Tensor& k;
  const Tensor& v;
  const Tensor& y;
  const Tensor& lse;
  const AttentionLayout& layout;
  const Tensor& dq;
  const Tensor& head_dk;  // [heads, key_tokens, width] f32, before the scale; undefined: not wanted
  const Tensor& head_dv;
};

}  // namespace wick
#endif

HWY_BEFORE_NAMESPACE();
namespace wick {
namespace HWY_NAMESPACE {

struct BackwardTile {
  float* q;        // [tile][width]
  float* q_t;      // [width][tile]: qᵀ * scale * log2(e)
  float* dy;       // [tile][width]
  float* dy_t;     // [width][tile]
  float* dq_t;     // [width][tile]
  float* k;        // [tile][width]
  float* v;        // [tile][width]
  float* weights;  // [tile][tile], transposed: keys by queries
  float* dscores;  // [tile][tile]
  float* lse;      // [tile]: log2 of the sum of exponentials
  float* delta;    // [tile]: rowsum(dy * y)

  static std::size_t floats(std::size_t width) { return kAttentionTile * (7 * width + 2 * kAttentionTile + 2); }
  BackwardTile(AttentionScratch& scratch, std::size_t width)
      : q(scratch.take(kAttentionTile * width)),
        q_t(scratch.take(kAttentionTile * width)),
        dy(scratch.take(kAttentionTile * width)),
        dy_t(scratch.take(kAttentionTile * width)),
        dq_t(scratch.take(kAttentionTile * width)),
        k(scratch.take(kAttentionTile * width)),
        v(scratch.take(kAttentionTile * width)),
        weights(scratch.take(kAttentionTile * kAttentionTile)),
        dscores(scratch.take(kAttentionTile * kAttentionTile)),
        lse(scratch.take(kAttentionTile)),
        delta(scratch.take(kAttentionTile)) {}
};

// weights = 2^(score - lse), dscores = weights * (dweights - delta), both in place.
HWY_ATTR void weights_again(const BackwardTile& tile, std::size_t keys, std::size_t columns) {
  const FloatTag d;
  for (std::size_t c = 0; c < columns; c += hn::Lanes(d)) {
    const auto lse = hn::LoadU(d, tile.lse + c);
    for (std::size_t j = 0; j < keys; ++j) {
      float* at = tile.weights + j * kAttentionTile + c;
      hn::StoreU(exp2_of(d, hn::Sub(hn::LoadU(d, at), lse)), d, at);
    }
  }
}

HWY_ATTR void score_gradients(const BackwardTile& tile, std::size_t keys, std::size_t columns) {
  const FloatTag d;
  for (std::size_t c = 0; c < columns; c += hn::Lanes(d)) {
    const auto delta = hn::LoadU(d, tile.delta + c);
    for (std::size_t j = 0; j < keys; ++j) {
      const std::size_t at = j * kAttentionTile + c;
      const auto difference = hn::Sub(hn::LoadU(d, tile.dscores + at), delta);
      hn::StoreU(hn::Mul(hn::LoadU(d, tile.weights + at), difference), d, tile.dscores + at);
    }
  }
}

// Packs the rows of a query block and what belongs to them; lanes behind `count` become zeros.
template <class T>
HWY_ATTR void load_queries(const BackwardTile& tile, const BackwardArguments& a, std::int64_t token, std::int64_t head,
                           std::size_t count, std::size_t columns, std::size_t width) {
  const FloatTag d;
  const auto head_dim = static_cast<std::size_t>(a.q.size(2));
  const T* q = a.q.data<T>() + token * a.q.stride(0) + head * a.q.stride(1);
  const T* dy = a.dy.data<T>() + token * a.dy.stride(0) + head * a.dy.stride(1);
  const T* y = a.y.data<T>() + token * a.y.stride(0) + head * a.y.stride(1);
  const float* lse = a.lse.data<float>() + head * a.lse.stride(0) + token;
  pack_rows(q, a.q.stride(0), count, head_dim, tile.q, width);
  pack_rows(dy, a.dy.stride(0), count, head_dim, tile.dy, width);
  std::fill(tile.q + count * width, tile.q + columns * width, 0.0F);
  std::fill(tile.dy + count * width, tile.dy + columns * width, 0.0F);
  const float scale = a.layout.scale * std::numbers::log2e_v<float>;
  transpose_tile(tile.q, width, columns, width, scale, tile.q_t, kAttentionTile);
  transpose_tile(tile.dy, width, columns, width, 1.0F, tile.dy_t, kAttentionTile);
  for (std::size_t r = 0; r < count; ++r) {
    tile.lse[r] = lse[r] * std::numbers::log2e_v<float>;
    const T* row = y + static_cast<std::int64_t>(r) * a.y.stride(0);
    const float* gradient = tile.dy + r * width;
    tile.delta[r] = sum_row(d, head_dim, [&](std::size_t i, std::size_t n) HWY_ATTR {
      return hn::Mul(load_some(d, row + i, n), hn::LoadU(d, gradient + i));
    });
  }
  std::fill(tile.lse + count, tile.lse + columns, 0.0F);
  std::fill(tile.delta + count, tile.delta + columns, 0.0F);
}

template <class T>
HWY_ATTR void store_dq(const BackwardTile& tile, const BackwardArguments& a, std::int64_t token, std::int64_t head,
                       std::size_t count, std::size_t columns, std::size_t width) {
  const FloatTag d;
  const auto head_dim = static_cast<std::size_t>(a.q.size(2));
  transpose_tile(tile.dq_t, kAttentionTile, width, columns, a.layout.scale, tile.q, width);
  for (std::size_t r = 0; r < count; ++r) {
    T* to = a.dq.data<T>() + (token + static_cast<std::int64_t>(r)) * a.dq.stride(0) + head * a.dq.stride(1);
    const float* from = tile.q + r * width;
    each_vector(d, head_dim,
                [&](std::size_t i, std::size_t n) HWY_ATTR { store_some(d, hn::LoadU(d, from + i), to + i, n); });
  }
}

template <class T>
HWY_ATTR void backward_item(const AttentionSequence& sequence, std::int64_t head, const BackwardArguments& a,
                            const BackwardTile& tile) {
  constexpr auto kTile = static_cast<std::int64_t>(kAttentionTile);
  const auto head_dim = static_cast<std::size_t>(a.q.size(2));
  const std::size_t width = padded(head_dim);
  const std::int64_t kv_head = head / (a.q.size(1) / a.k.size(1));
  const T* keys = a.k.data<T>() + sequence.first_key * a.k.stride(0) + kv_head * a.k.stride(1);
  const T* values = a.v.data<T>() + sequence.first_key * a.v.stride(0) + kv_head * a.v.stride(1);
  const auto head_rows = [&](const Tensor& t) {
    if (!t.defined()) return static_cast<float*>(nullptr);
    float* rows = t.data<float>() + head * t.stride(0) + sequence.first_key * t.stride(1);
    std::fill_n(rows, static_cast<std::size_t>(sequence.keys) * width, 0.0F);
    return rows;
  };
  float* dk = head_rows(a.head_dk);
  float* dv = head_rows(a.head_dv);
  for (std::int64_t block = 0; block < sequence.queries; block += kTile) {
    const auto count = static_cast<std::size_t>(std::min(kTile, sequence.queries - block));
    const std::size_t columns = padded(count);
    load_queries<T>(tile, a, sequence.first_query + block, head, count, columns, width);
    std::fill_n(tile.dq_t, width * kAttentionTile, 0.0F);
    const std::int64_t first = block + sequence.keys - sequence.queries;
    const std::int64_t last = first + static_cast<std::int64_t>(count) - 1;
    const KeyRange range(a.layout, sequence.keys, first, last);
    for (std::int64_t begin = range.begin; begin < range.end; begin += kTile) {
      const std::int64_t end = std::min(range.end, begin + kTile);
      const auto length = static_cast<std::size_t>(end - begin);
      pack_rows(keys + begin * a.k.stride(0), a.k.stride(0), length, head_dim, tile.k, width);
      multiply({tile.k, width, 1}, tile.q_t, kAttentionTile, tile.weights, kAttentionTile, length, columns, head_dim,
               false);
      add_bias(a.layout, head, tile.weights, length, columns, begin, first);
      weights_again(tile, length, columns);
      if (!all_visible(a.layout, first, last, begin, end)) {
        mask_tile(tile.weights, length, columns, begin, first, a.layout.window, 0.0F);
      }
      const std::size_t row = static_cast<std::size_t>(begin) * width;
      if (dv != nullptr) {
        multiply({tile.weights, kAttentionTile, 1}, tile.dy, width, dv + row, width, length, width, count, true);
      }
      if (dk == nullptr && !a.dq.defined()) continue;
      pack_rows(values + begin * a.v.stride(0), a.v.stride(0), length, head_dim, tile.v, width);
      multiply({tile.v, width, 1}, tile.dy_t, kAttentionTile, tile.dscores, kAttentionTile, length, columns, head_dim,
               false);
      score_gradients(tile, length, columns);
      if (dk != nullptr) {
        multiply({tile.dscores, kAttentionTile, 1}, tile.q, width, dk + row, width, length, width, count, true);
      }
      if (a.dq.defined()) {
        multiply({tile.k, 1, width}, tile.dscores, kAttentionTile, tile.dq_t, kAttentionTile, head_dim, columns, length,
                 true);
      }
    }
    if (a.dq.defined()) store_dq<T>(tile, a, sequence.first_query + block, head, count, columns, width);
  }
}

void backward(const BackwardArguments& a, double work) {
  const std::size_t width = padded(static_cast<std::size_t>(a.q.size(2)));
  const std::int64_t heads = a.q.size(1);
  share_items(AttentionSequence::count(a.layout) * heads, work, [&](const auto& next) {
    AttentionScratch scratch(BackwardTile::floats(width));
    const BackwardTile tile(scratch, width);
    visit_narrow(a.q.dtype(), [&](auto tag) {
      for (std::int64_t i = next(); i >= 0; i = next()) {
        backward_item<decltype(tag)>(AttentionSequence(a.layout, i / heads), i % heads, a, tile);
      }
    });
  });
}

// out[token][kv_head] = scale * the sum of its group's rows.
template <class T>
HWY_ATTR void add_group(const Tensor& rows, float scale, const Tensor& out, std::int64_t begin, std::int64_t end) {
  const FloatTag d;
  const std::int64_t group = rows.size(0) / out.size(1);
  const auto factor = hn::Set(d, scale);
  for (std::int64_t token = begin; token < end; ++token) {
    for (std::int64_t kv_head = 0; kv_head < out.size(1); ++kv_head) {
      const float* from = rows.data<float>() + kv_head * group * rows.stride(0) + token * rows.stride(1);
      T* to = out.data<T>() + token * out.stride(0) + kv_head * out.stride(1);
      each_vector(d, static_cast<std::size_t>(out.size(2)), [&](std::size_t i, std::size_t n) HWY_ATTR {
        auto total = hn::Zero(d);
        for (std::int64_t g = 0; g < group; ++g) total = hn::Add(total, hn::LoadU(d, from + g * rows.stride(0) + i));
        store_some(d, hn::Mul(total, factor), to + i, n);
      });
    }
  }
}

void reduce_group(const Tensor& rows, float scale, const Tensor& out, std::int64_t begin, std::int64_t end) {
  visit_narrow(out.dtype(), [&](auto tag) { add_group<decltype(tag)>(rows, scale, out, begin, end); });
}

std::int64_t padded_width(std::int64_t head_dim) {
  return static_cast<std::int64_t>(padded(static_cast<std::size_t>(head_dim)));
}

}  // namespace HWY_NAMESPACE
}  // namespace wick
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace wick {

HWY_EXPORT(backward);
HWY_EXPORT(reduce_group);
HWY_EXPORT(padded_width);

Declined attention_backward_cpu(const Tensor& dy, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& y,
                                const Tensor& lse, const AttentionLayout& layout, const Tensor& dq, const Tensor& dk,
                                const Tensor& dv) {
  if (q.dtype() == DType::f64) return "f64";
  const std::int64_t width = HWY_DYNAMIC_DISPATCH(padded_width)(q.size(2));
  const auto rows = [&](const Tensor& gradient) {
    return gradient.defined() ? Tensor::empty({q.size(1), k.size(0), width}, DType::f32) : Tensor();
  };
  const Tensor head_dk = rows(dk);
  const Tensor head_dv = rows(dv);
  double work = 0;
  for (std::int64_t s = 0; s < AttentionSequence::count(layout); ++s) {
    const AttentionSequence sequence(layout, s);
    work += 3.0 * static_cast<double>(sequence.queries) * static_cast<double>(sequence.keys * q.size(1) * q.size(2));
  }
  HWY_DYNAMIC_DISPATCH(backward)({dy, q, k, v, y, lse, layout, dq, head_dk, head_dv}, work);
  const auto reduce = HWY_DYNAMIC_DISPATCH(reduce_group);
  const auto finish = [&](const Tensor& parts, float scale, const Tensor& gradient) {
    if (!gradient.defined()) return;
    parallel_for(k.size(0), rows_per_piece(q.size(1) * width),
                 [&](std::int64_t begin, std::int64_t end) { reduce(parts, scale, gradient, begin, end); });
  };
  finish(head_dk, layout.scale, dk);
  finish(head_dv, 1.0F, dv);
  return nullptr;
}

}  // namespace wick
#endif
