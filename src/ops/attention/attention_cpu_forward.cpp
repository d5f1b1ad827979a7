// Tiled attention with an online softmax: Dao 2023 (FlashAttention-2), algorithm 1, on tiles of attention_cpu-inl.h.
#include "ops/attention/attention_cpu.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/attention/attention_cpu_forward.cpp"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"

#include <cmath>
#include <numbers>
#include <vector>

#include "core/dispatch.h"
#include "ops/attention/attention_cpu-inl.h"

#ifndef WICK_OPS_ATTENTION_CPU_FORWARD_ITEM
#define WICK_OPS_ATTENTION_CPU_FORWARD_ITEM
namespace wick {

/// A block of queries of one head.
struct ForwardItem {
  AttentionSequence sequence;
  std::int64_t head;
  std::int64_t first;  ///< of the sequence's queries
  std::int64_t count;
};

}  // namespace wick
#endif

HWY_BEFORE_NAMESPACE();
namespace wick {
namespace HWY_NAMESPACE {

struct ForwardTile {
  float* rows;     // [tile][width]: q as rows, later y as rows
  float* q;        // [width][tile]: qᵀ * scale * log2(e)
  float* kv;       // [tile][width]
  float* scores;   // [tile][tile], transposed: keys by queries
  float* y;        // [width][tile]: yᵀ, unnormalised
  float* highest;  // [tile]: the largest score so far
  float* total;    // [tile]: the sum of 2^(score - highest)

  static std::size_t floats(std::size_t width) { return kAttentionTile * (4 * width + kAttentionTile + 2); }
  ForwardTile(AttentionScratch& scratch, std::size_t width)
      : rows(scratch.take(kAttentionTile * width)),
        q(scratch.take(kAttentionTile * width)),
        kv(scratch.take(kAttentionTile * width)),
        scores(scratch.take(kAttentionTile * kAttentionTile)),
        y(scratch.take(kAttentionTile * width)),
        highest(scratch.take(kAttentionTile)),
        total(scratch.take(kAttentionTile)) {}
};

// Turns the scores of `keys` keys into weights 2^(score - highest), and rescales what was summed under older maxima.
HWY_ATTR void online_softmax(const ForwardTile& tile, std::size_t keys, std::size_t columns, std::size_t width) {
  const FloatTag d;
  each_strip(columns, [&](auto strip, std::size_t at) HWY_ATTR {
    constexpr int kVectors = decltype(strip)::value;
    const std::size_t lanes = hn::Lanes(d);
    FloatVec before[kVectors], highest[kVectors], total[kVectors];
    float* scores = tile.scores + at;
    for (int n = 0; n < kVectors; ++n) {
      before[n] = highest[n] = hn::LoadU(d, tile.highest + at + static_cast<std::size_t>(n) * lanes);
      total[n] = hn::Zero(d);
    }
    for (std::size_t j = 0; j < keys; ++j) {
      for (int n = 0; n < kVectors; ++n) {
        const float* from = scores + j * kAttentionTile + static_cast<std::size_t>(n) * lanes;
        highest[n] = hn::Max(highest[n], hn::LoadU(d, from));
      }
    }
    for (std::size_t j = 0; j < keys; ++j) {
      for (int n = 0; n < kVectors; ++n) {
        float* to = scores + j * kAttentionTile + static_cast<std::size_t>(n) * lanes;
        const auto weight = exp2_of(d, hn::Sub(hn::LoadU(d, to), highest[n]));
        total[n] = hn::Add(total[n], weight);
        hn::StoreU(weight, d, to);
      }
    }
    for (int n = 0; n < kVectors; ++n) {
      const std::size_t column = at + static_cast<std::size_t>(n) * lanes;
      hn::StoreU(highest[n], d, tile.highest + column);
      const auto keep = exp2_of(d, hn::Sub(before[n], highest[n]));
      const auto older = hn::LoadU(d, tile.total + column);
      hn::StoreU(hn::MulAdd(older, keep, total[n]), d, tile.total + column);
      if (hn::AllTrue(d, hn::Eq(keep, hn::Set(d, 1.0F)))) continue;
      for (std::size_t i = 0; i < width; ++i) {
        float* to = tile.y + i * kAttentionTile + column;
        hn::StoreU(hn::Mul(hn::LoadU(d, to), keep), d, to);
      }
    }
  });
}

// y = yᵀ / total as rows of T, lse = log(total) + highest.
template <class T>
HWY_ATTR void finish(const ForwardTile& tile, const ForwardItem& item, const Tensor& y, const Tensor& lse,
                     std::size_t columns, std::size_t width) {
  const FloatTag d;
  const auto head_dim = static_cast<std::size_t>(y.size(2));
  for (std::size_t c = 0; c < columns; c += hn::Lanes(d)) {
    const auto total = hn::LoadU(d, tile.total + c);
    const auto inverse = hn::IfThenElseZero(hn::Gt(total, hn::Zero(d)), hn::Div(hn::Set(d, 1.0F), total));
    for (std::size_t i = 0; i < head_dim; ++i) {
      float* to = tile.y + i * kAttentionTile + c;
      hn::StoreU(hn::Mul(hn::LoadU(d, to), inverse), d, to);
    }
  }
  transpose_tile(tile.y, kAttentionTile, width, columns, 1.0F, tile.rows, width);
  const std::int64_t token = item.sequence.first_query + item.first;
  for (std::int64_t r = 0; r < item.count; ++r) {
    const float* from = tile.rows + static_cast<std::size_t>(r) * width;
    T* to = y.data<T>() + (token + r) * y.stride(0) + item.head * y.stride(1);
    each_vector(d, head_dim,
                [&](std::size_t i, std::size_t n) HWY_ATTR { store_some(d, hn::LoadU(d, from + i), to + i, n); });
  }
  if (!lse.defined()) return;
  float* out = lse.data<float>() + item.head * lse.stride(0) + token;
  for (std::int64_t r = 0; r < item.count; ++r) {
    out[r] = tile.total[r] > 0 ? std::log(tile.total[r]) + tile.highest[r] * std::numbers::ln2_v<float>
                               : -std::numeric_limits<float>::infinity();
  }
}

template <class T>
HWY_ATTR void forward_item(const ForwardItem& item, const Tensor& q, const Tensor& k, const Tensor& v,
                           const AttentionLayout& layout, const Tensor& y, const Tensor& lse, const ForwardTile& tile) {
  const auto head_dim = static_cast<std::size_t>(q.size(2));
  const std::size_t width = padded(head_dim);
  const auto count = static_cast<std::size_t>(item.count);
  const std::size_t columns = padded(count);
  const std::int64_t kv_head = item.head / (q.size(1) / k.size(1));
  const T* queries = q.data<T>() + (item.sequence.first_query + item.first) * q.stride(0) + item.head * q.stride(1);
  const T* keys = k.data<T>() + item.sequence.first_key * k.stride(0) + kv_head * k.stride(1);
  const T* values = v.data<T>() + item.sequence.first_key * v.stride(0) + kv_head * v.stride(1);
  pack_rows(queries, q.stride(0), count, head_dim, tile.rows, width);
  std::fill(tile.rows + count * width, tile.rows + columns * width, 0.0F);
  transpose_tile(tile.rows, width, columns, width, layout.scale * std::numbers::log2e_v<float>, tile.q, kAttentionTile);
  std::fill_n(tile.y, width * kAttentionTile, 0.0F);
  std::fill_n(tile.highest, columns, kLowestScore);
  std::fill_n(tile.total, columns, 0.0F);

  const std::int64_t first = item.first + item.sequence.keys - item.sequence.queries;
  const std::int64_t last = first + item.count - 1;
  const KeyRange range(layout, item.sequence.keys, first, last);
  for (std::int64_t begin = range.begin; begin < range.end; begin += static_cast<std::int64_t>(kAttentionTile)) {
    const std::int64_t end = std::min(range.end, begin + static_cast<std::int64_t>(kAttentionTile));
    const auto length = static_cast<std::size_t>(end - begin);
    pack_rows(keys + begin * k.stride(0), k.stride(0), length, head_dim, tile.kv, width);
    multiply({tile.kv, width, 1}, tile.q, kAttentionTile, tile.scores, kAttentionTile, length, columns, head_dim,
             false);
    add_bias(layout, item.head, tile.scores, length, columns, begin, first);
    if (!all_visible(layout, first, last, begin, end)) {
      mask_tile(tile.scores, length, columns, begin, first, layout.window, -std::numeric_limits<float>::infinity());
    }
    online_softmax(tile, length, columns, head_dim);
    pack_rows(values + begin * v.stride(0), v.stride(0), length, head_dim, tile.kv, width);
    multiply({tile.kv, 1, width}, tile.scores, kAttentionTile, tile.y, kAttentionTile, head_dim, columns, length, true);
  }
  finish<T>(tile, item, y, lse, columns, width);
}

void forward(std::span<const ForwardItem> items, const Tensor& q, const Tensor& k, const Tensor& v,
             const AttentionLayout& layout, const Tensor& y, const Tensor& lse, double work) {
  const std::size_t width = padded(static_cast<std::size_t>(q.size(2)));
  share_items(static_cast<std::int64_t>(items.size()), work, [&](const auto& next) {
    AttentionScratch scratch(ForwardTile::floats(width));
    const ForwardTile tile(scratch, width);
    visit_narrow(q.dtype(), [&](auto tag) {
      for (std::int64_t i = next(); i >= 0; i = next()) {
        forward_item<decltype(tag)>(items[static_cast<std::size_t>(i)], q, k, v, layout, y, lse, tile);
      }
    });
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace wick
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace wick {

HWY_EXPORT(forward);

Declined attention_forward_cpu(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionLayout& layout,
                               const Tensor& y, const Tensor& lse) {
  if (q.dtype() == DType::f64) return "f64";
  if (attention_decode_cpu(q, k, v, layout, y, lse) == nullptr) return nullptr;
  std::vector<ForwardItem> items;
  double work = 0;
  constexpr auto kTile = static_cast<std::int64_t>(kAttentionTile);
  for (std::int64_t s = 0; s < AttentionSequence::count(layout); ++s) {
    const AttentionSequence sequence(layout, s);
    const std::int64_t blocks = (sequence.queries + kTile - 1) / kTile;
    work += static_cast<double>(sequence.queries) * static_cast<double>(sequence.keys * q.size(1) * q.size(2));
    for (std::int64_t head = 0; head < q.size(1); ++head) {
      // The last blocks see most keys: they go first.
      for (std::int64_t b = blocks - 1; b >= 0; --b) {
        items.push_back({sequence, head, b * kTile, std::min(kTile, sequence.queries - b * kTile)});
      }
    }
  }
  HWY_DYNAMIC_DISPATCH(forward)(items, q, k, v, layout, y, lse, work);
  return nullptr;
}

}  // namespace wick
#endif
