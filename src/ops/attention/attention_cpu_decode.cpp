// Attention of one query a sequence: a walk over the KV cache that reads every key and value once for all heads of a
// group. Long caches are cut into chunks of fixed length, whose sums are joined in order.
#include "ops/attention/attention_cpu.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/attention/attention_cpu_decode.cpp"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"

#include <cmath>
#include <numbers>
#include <vector>

#include "core/dispatch.h"
#include "ops/attention/attention_cpu-inl.h"

#ifndef WICK_OPS_ATTENTION_CPU_DECODE_CHUNK
#define WICK_OPS_ATTENTION_CPU_DECODE_CHUNK
namespace wick {

/// Keys [begin, end) of a sequence, read for all query heads of one kv head.
struct DecodeChunk {
  AttentionSequence sequence;
  std::int64_t kv_head;
  std::int64_t begin;
  std::int64_t end;
};

}  // namespace wick
#endif

HWY_BEFORE_NAMESPACE();
namespace wick {
namespace HWY_NAMESPACE {

struct DecodeTile {
  float* q;       // [group][width], times scale * log2(e)
  float* kv;      // [tile][width]
  float* scores;  // [group][tile]

  static std::size_t floats(std::size_t group, std::size_t width) {
    return group * width + kAttentionTile * width + group * kAttentionTile;
  }
  DecodeTile(AttentionScratch& scratch, std::size_t group, std::size_t width)
      : q(scratch.take(group * width)),
        kv(scratch.take(kAttentionTile * width)),
        scores(scratch.take(group * kAttentionTile)) {}
};

// scores[h][0..4) = q[h] · k[0..4) for kHeads heads.
template <int kHeads>
HWY_ATTR void dot_four(const float* q, const float* k, std::size_t width, float* scores) {
  const FloatTag d;
  const std::size_t lanes = hn::Lanes(d);
  FloatVec sums[kHeads][4];
  for (auto& of_head : sums) {
    for (auto& s : of_head) s = hn::Zero(d);
  }
  for (std::size_t i = 0; i < width; i += lanes) {
    FloatVec keys[4];
    for (std::size_t j = 0; j < 4; ++j) keys[j] = hn::LoadU(d, k + j * width + i);
    for (std::size_t h = 0; h < kHeads; ++h) {
      const auto x = hn::LoadU(d, q + h * width + i);
      for (std::size_t j = 0; j < 4; ++j) sums[h][j] = hn::MulAdd(x, keys[j], sums[h][j]);
    }
  }
  for (std::size_t h = 0; h < kHeads; ++h) {
    float* out = scores + h * kAttentionTile;
#if HWY_TARGET == HWY_SCALAR
    for (std::size_t j = 0; j < 4; ++j) out[j] = hn::GetLane(sums[h][j]);
#else
    // Four sums across lanes at once: lane j of each 128-bit block gathers sum j, then the blocks are added.
    const hn::Repartition<std::uint64_t, FloatTag> d64;
    const auto low = hn::BitCast(
        d64, hn::Add(hn::InterleaveLower(d, sums[h][0], sums[h][1]), hn::InterleaveUpper(d, sums[h][0], sums[h][1])));
    const auto high = hn::BitCast(
        d64, hn::Add(hn::InterleaveLower(d, sums[h][2], sums[h][3]), hn::InterleaveUpper(d, sums[h][2], sums[h][3])));
    const auto blocks = hn::Add(hn::BitCast(d, hn::InterleaveLower(d64, low, high)),
                                hn::BitCast(d, hn::InterleaveUpper(d64, low, high)));
    HWY_ALIGN float buffer[HWY_MAX_BYTES / sizeof(float)];
    hn::Store(blocks, d, buffer);
    const hn::Full128<float> d4;
    auto total = hn::Load(d4, buffer);
    for (std::size_t i = 4; i < lanes; i += 4) total = hn::Add(total, hn::Load(d4, buffer + i));
    hn::StoreU(total, d4, out);
#endif
  }
}

// Weights 2^(score - highest) of one head over a tile; what was summed before is rescaled to the new maximum.
HWY_ATTR void weigh(float* scores, std::size_t keys, float* y, std::size_t width, float& highest, float& total) {
  const FloatTag d;
  const std::size_t lanes = hn::Lanes(d);
  std::fill(scores + keys, scores + kAttentionTile, -std::numeric_limits<float>::infinity());
  auto top = hn::Set(d, highest);
  for (std::size_t j = 0; j < keys; j += lanes) top = hn::Max(top, hn::LoadU(d, scores + j));
  top = hn::MaxOfLanes(d, top);
  auto sum = hn::Zero(d);
  for (std::size_t j = 0; j < keys; j += lanes) {
    const auto weight = exp2_of(d, hn::Sub(hn::LoadU(d, scores + j), top));
    sum = hn::Add(sum, weight);
    hn::StoreU(weight, d, scores + j);
  }
  const float now = hn::GetLane(top);
  if (now != highest) {
    const auto keep = exp2_of(d, hn::Sub(hn::Set(d, highest), top));
    for (std::size_t i = 0; i < width; i += lanes) hn::StoreU(hn::Mul(hn::LoadU(d, y + i), keep), d, y + i);
    total *= hn::GetLane(keep);
    highest = now;
  }
  total += hn::GetLane(hn::SumOfLanes(d, sum));
}

// part: per head of the group, y unnormalised [width], highest and total.
template <class T>
HWY_ATTR void decode_chunk(const DecodeChunk& chunk, const Tensor& q, const Tensor& k, const Tensor& v, float scale,
                           float* part, const DecodeTile& tile) {
  const FloatTag d;
  const auto head_dim = static_cast<std::size_t>(q.size(2));
  const std::size_t width = padded(head_dim);
  const auto group = static_cast<std::size_t>(q.size(1) / k.size(1));
  float* y = part;
  float* highest = part + group * width;
  float* total = highest + group;
  std::fill_n(y, group * width, 0.0F);
  std::fill_n(highest, group, kLowestScore);
  std::fill_n(total, group, 0.0F);
  pack_rows(q.data<T>() + chunk.sequence.first_query * q.stride(0) +
                chunk.kv_head * static_cast<std::int64_t>(group) * q.stride(1),
            q.stride(1), group, head_dim, tile.q, width);
  const auto factor = hn::Set(d, scale * std::numbers::log2e_v<float>);
  for (std::size_t i = 0; i < group * width; i += hn::Lanes(d)) {
    hn::StoreU(hn::Mul(hn::LoadU(d, tile.q + i), factor), d, tile.q + i);
  }
  const T* keys = k.data<T>() + chunk.sequence.first_key * k.stride(0) + chunk.kv_head * k.stride(1);
  const T* values = v.data<T>() + chunk.sequence.first_key * v.stride(0) + chunk.kv_head * v.stride(1);
  for (std::int64_t at = chunk.begin; at < chunk.end; at += static_cast<std::int64_t>(kAttentionTile)) {
    const auto length = static_cast<std::size_t>(std::min(chunk.end - at, static_cast<std::int64_t>(kAttentionTile)));
    pack_rows(keys + at * k.stride(0), k.stride(0), length, head_dim, tile.kv, width);
    for (std::size_t j = 0; j < length; j += 4) {
      std::size_t h = 0;
      for (; h + 2 <= group; h += 2) {
        dot_four<2>(tile.q + h * width, tile.kv + j * width, width, tile.scores + h * kAttentionTile + j);
      }
      if (h < group) dot_four<1>(tile.q + h * width, tile.kv + j * width, width, tile.scores + h * kAttentionTile + j);
    }
    for (std::size_t h = 0; h < group; ++h) {
      weigh(tile.scores + h * kAttentionTile, length, y + h * width, width, highest[h], total[h]);
    }
    pack_rows(values + at * v.stride(0), v.stride(0), length, head_dim, tile.kv, width);
    multiply({tile.scores, kAttentionTile, 1}, tile.kv, width, y, width, group, width, length, true);
  }
}

// Joins the chunks of one kv head of one sequence, which follow each other in `parts`.
template <class T>
HWY_ATTR void join(const DecodeChunk& first, std::size_t chunks, const float* parts, std::size_t part_size,
                   const Tensor& y, const Tensor& lse, std::size_t group, std::size_t width) {
  const FloatTag d;
  const std::int64_t token = first.sequence.first_query;
  for (std::size_t h = 0; h < group; ++h) {
    const float* tops = parts + group * width + h;
    const float* totals = tops + group;
    float highest = kLowestScore;
    for (std::size_t c = 0; c < chunks; ++c) highest = std::max(highest, tops[c * part_size]);
    float total = 0;
    for (std::size_t c = 0; c < chunks; ++c) {
      total += totals[c * part_size] * std::exp2(tops[c * part_size] - highest);
    }
    const std::int64_t head = first.kv_head * static_cast<std::int64_t>(group) + static_cast<std::int64_t>(h);
    T* out = y.data<T>() + token * y.stride(0) + head * y.stride(1);
    const float inverse = total > 0 ? 1.0F / total : 0.0F;
    each_vector(d, static_cast<std::size_t>(y.size(2)), [&](std::size_t i, std::size_t n) HWY_ATTR {
      auto sum = hn::Zero(d);
      for (std::size_t c = 0; c < chunks; ++c) {
        const auto weight = hn::Set(d, std::exp2(tops[c * part_size] - highest) * inverse);
        sum = hn::MulAdd(weight, hn::LoadU(d, parts + c * part_size + h * width + i), sum);
      }
      store_some(d, sum, out + i, n);
    });
    if (lse.defined()) {
      lse.data<float>()[head * lse.stride(0) + token] =
          total > 0 ? std::log(total) + highest * std::numbers::ln2_v<float> : -std::numeric_limits<float>::infinity();
    }
  }
}

void decode(std::span<const DecodeChunk> chunks, const Tensor& q, const Tensor& k, const Tensor& v, float scale,
            const Tensor& y, const Tensor& lse, double work) {
  const std::size_t width = padded(static_cast<std::size_t>(q.size(2)));
  const auto group = static_cast<std::size_t>(q.size(1) / k.size(1));
  const std::size_t part_size = group * (width + 2);
  std::vector<float> parts(chunks.size() * part_size);
  visit_narrow(q.dtype(), [&](auto tag) {
    using T = decltype(tag);
    share_items(static_cast<std::int64_t>(chunks.size()), work, [&](const auto& next) {
      AttentionScratch scratch(DecodeTile::floats(group, width));
      const DecodeTile tile(scratch, group, width);
      for (std::int64_t i = next(); i >= 0; i = next()) {
        const auto at = static_cast<std::size_t>(i);
        decode_chunk<T>(chunks[at], q, k, v, scale, parts.data() + at * part_size, tile);
      }
    });
    for (std::size_t i = 0; i < chunks.size();) {
      std::size_t count = 1;
      while (i + count < chunks.size() && chunks[i + count].kv_head == chunks[i].kv_head &&
             chunks[i + count].sequence.first_query == chunks[i].sequence.first_query) {
        ++count;
      }
      join<T>(chunks[i], count, parts.data() + i * part_size, part_size, y, lse, group, width);
      i += count;
    }
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace wick
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace wick {

HWY_EXPORT(decode);

Declined attention_decode_cpu(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionLayout& layout,
                              const Tensor& y, const Tensor& lse) {
  if (layout.bias.defined()) return "a bias";
  constexpr std::int64_t kChunk = 512;
  std::vector<DecodeChunk> chunks;
  double work = 0;
  for (std::int64_t s = 0; s < AttentionSequence::count(layout); ++s) {
    const AttentionSequence sequence(layout, s);
    if (sequence.queries == 0) continue;
    if (sequence.queries > 1) return "more than one query a sequence";
    const KeyRange range(layout, sequence.keys, sequence.keys - 1, sequence.keys - 1);
    work += 2.0 * static_cast<double>(range.end - range.begin) * static_cast<double>(q.size(1) * q.size(2));
    for (std::int64_t kv_head = 0; kv_head < k.size(1); ++kv_head) {
      std::int64_t begin = range.begin;
      do {  // once even without keys: zeros have to be written
        const std::int64_t end = std::min(range.end, begin + kChunk);
        chunks.push_back({sequence, kv_head, begin, end});
        begin = end;
      } while (begin < range.end);
    }
  }
  if (q.size(1) > 0) HWY_DYNAMIC_DISPATCH(decode)(chunks, q, k, v, layout.scale, y, lse, work);
  return nullptr;
}

}  // namespace wick
#endif
