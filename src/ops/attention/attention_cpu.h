#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <new>

#include "core/parallel.h"
#include "hwy/aligned_allocator.h"
#include "ops/attention/attention.h"

namespace wick {

/// Queries and keys of a tile: 64 x 64 scores and the rows they come from fit the first-level cache for usual heads.
inline constexpr std::size_t kAttentionTile = 64;

/// What a running maximum of scores starts from: below all of them, yet finite, so that differences are numbers.
inline constexpr float kLowestScore = -1e30F;

/// One sequence: its queries are the last ones of its keys.
struct AttentionSequence {
  std::int64_t first_query;
  std::int64_t queries;
  std::int64_t first_key;
  std::int64_t keys;

  AttentionSequence(const AttentionLayout& layout, std::int64_t index) {
    const std::int32_t* q = layout.query_offsets.data<std::int32_t>() + index;
    const std::int32_t* k = layout.key_offsets.data<std::int32_t>() + index;
    first_query = q[0];
    queries = q[1] - q[0];
    first_key = k[0];
    keys = k[1] - k[0];
  }
  static std::int64_t count(const AttentionLayout& layout) { return layout.query_offsets.numel() - 1; }
};

/// The keys of a sequence that queries at positions [first, last] see at least partly: [begin, end).
struct KeyRange {
  std::int64_t begin;
  std::int64_t end;

  KeyRange(const AttentionLayout& layout, std::int64_t keys, std::int64_t first, std::int64_t last) {
    begin = layout.window > 0 ? std::max<std::int64_t>(0, first - layout.window + 1) : 0;
    end = layout.causal ? std::clamp<std::int64_t>(last + 1, begin, std::max(begin, keys)) : keys;
  }
};

/// Float scratch of one thread, aligned for vectors and handed out in pieces.
class AttentionScratch {
 public:
  explicit AttentionScratch(std::size_t floats) : data_(hwy::AllocateAligned<float>(floats)), left_(floats) {
    if (data_ == nullptr) throw std::bad_alloc();
    next_ = data_.get();
    std::fill_n(next_, floats, 0.0F);
  }
  float* take(std::size_t floats) {
    float* piece = next_;
    next_ += floats;
    left_ -= floats;
    return piece;
  }

 private:
  hwy::AlignedFreeUniquePtr<float[]> data_;
  float* next_ = nullptr;
  std::size_t left_;
};

/// Runs worker(next) on every thread that `work` (multiplications) is worth; next() hands out 0, 1, ... count - 1 once
/// and then -1. Items must write apart from each other: who runs which one varies.
template <class Worker>
void share_items(std::int64_t count, double work, const Worker& worker) {
  std::atomic<std::int64_t> issued{0};
  const auto next = [&] {
    const std::int64_t item = issued.fetch_add(1, std::memory_order_relaxed);
    return item < count ? item : std::int64_t{-1};
  };
  const std::int64_t threads = std::min<std::int64_t>(count, work < 1e6 ? 1 : omp_get_max_threads());
  parallel_for(threads, 1, [&](std::int64_t, std::int64_t) { worker(next); });
}

}  // namespace wick
