// The next token, chosen on the device: one cluster of blocks, each with a contiguous part of the vocabulary. Nothing
// is sorted: top-k, top-p and the draw itself are searches for the token at which a running sum reaches a target. Sums
// are of integers, so they do not depend on the order of atomics.
#include <algorithm>
#include <cmath>
#include <limits>

#include "backend/cuda/cluster.cuh"
#include "backend/cuda/kernels.cuh"
#include "backend/cuda/philox.cuh"
#include "backend/cuda/row_plan.h"
#include "generate/device_sampler.h"
#include "generate/sampling.h"

namespace wick::cuda {
namespace {

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / 32;
constexpr int kBins = 256;
constexpr int kSlots = 8;  // logits that a thread reads before it looks at them
static_assert(kBins == kWarps * kMaxCluster, "choose_bin() also chooses among all warps of a cluster");

using Sum = unsigned long long;

// Probabilities relative to the largest one, in units of 2^-41, and three pieces of 14 bits to sum them in 32.
constexpr float kUnit = 0x1p41F;
constexpr int kPieceBits = 14;
constexpr int kPieces = 3;
constexpr std::int64_t kMostOfBlock = std::int64_t{1} << (32 - kPieceBits);  // tokens whose pieces cannot overflow

struct Request {
  const float* logits;
  float* scaled;
  int vocab;
  int per_block;
  std::uint32_t* seen;  // null: no penalty
  std::int64_t* position;
  std::int32_t* id;
  std::uint64_t seed;
  float penalty;
  bool greedy;
  double inverse_temperature;  // 1: logits as they are
  Sum top_k;                   // 0: all
  double top_p;                // 1: all
  double log_min_p;            // -inf: all
};

struct Best {
  Sum key;  // the largest logit's order, above the complement of the lowest id that has it
  int has_nan;
};

struct Shared {
  Best best;
  Best best_of_warp[kWarps];
  unsigned histogram[2][kPieces][kBins];
  Sum sum_of_warp[kWarps];    // of probabilities, in the order of ids
  Sum total_of_warp[kWarps];  // choose_bin()'s
  Sum before, inside;         // its answer
  int bin;
  int found;
};

// Unsigned integers in the order of floats, none of which is NaN or -0.
__device__ inline unsigned ordered(float value) {
  const unsigned bits = __float_as_uint(value);
  return (bits & 0x80000000U) != 0 ? ~bits : bits | 0x80000000U;
}
__device__ inline float from_ordered(unsigned key) {
  return __uint_as_float((key & 0x80000000U) != 0 ? key & 0x7FFFFFFFU : ~key);
}

// fn(id, value) for the ids of this block that are this thread's.
template <class Fn>
__device__ inline void each(const float* values, int begin, int end, Fn&& fn) {
  for (int i = begin + static_cast<int>(threadIdx.x); i < end; i += kSlots * kThreads) {
    float value[kSlots];
#pragma unroll
    for (int s = 0; s < kSlots; ++s) value[s] = i + s * kThreads < end ? values[i + s * kThreads] : 0.0F;
#pragma unroll
    for (int s = 0; s < kSlots; ++s) {
      if (i + s * kThreads < end) fn(i + s * kThreads, value[s]);
    }
  }
}

struct Choice {
  int bin;
  Sum before;  // what the bins before it sum to
  Sum inside;  // what it adds
};
// The first bin at which the running sum reaches target_of(sum of all bins), in every thread of the block. The bin of
// thread t < kBins holds `mine`; the other threads hold 0.
template <class Target>
__device__ Choice choose_bin(Shared& shared, Sum mine, Target&& target_of) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  Sum running = mine;
#pragma unroll
  for (int offset = 1; offset < 32; offset *= 2) {
    const Sum other = __shfl_up_sync(0xffffffffU, running, offset);
    if (lane >= offset) running += other;
  }
  __syncthreads();
  if (lane == 31) shared.total_of_warp[warp] = running;
  __syncthreads();
  Sum total = 0;
  for (int w = 0; w < kBins / 32; ++w) {
    if (w < warp) running += shared.total_of_warp[w];
    total += shared.total_of_warp[w];
  }
  const Sum target = target_of(total);
  if (threadIdx.x < kBins && running - mine < target && target <= running) {
    shared.bin = static_cast<int>(threadIdx.x);
    shared.before = running - mine;
    shared.inside = mine;
  }
  __syncthreads();
  return {shared.bin, shared.before, shared.inside};
}

class Search {
 public:
  __device__ Search(Shared& shared, const float* values, int begin, int end, float top)
      : shared_(shared), values_(values), begin_(begin), end_(end), top_(top) {}

  struct Threshold {
    float value;
    Sum before;  // the weight of larger logits
    Sum inside;  // and of those that are as large
  };
  // The largest logit at which the weight of all logits that are as large or larger reaches target_of(all weight). The
  // weight is 0 where the logit has no say.
  template <class Weight, class Target>
  __device__ Threshold by_value(Weight&& weight, Target&& target_of) {
    // First by distance from the top, since the leading bits of most logits are the same, then byte by byte.
    const auto distance = [this](float value) {
      const float steps = (top_ - value) * 8;
      return steps < kBins - 1 ? static_cast<int>(steps) : kBins - 1;
    };
    const auto descending = [](float value) { return ~ordered(value); };
    Choice choice = in_bins([&](int, float value) { return distance(value); }, weight, target_of);
    const int near = choice.bin;
    Sum before = choice.before;
    Sum target = last_target_;
    unsigned prefix = 0;
    for (int shift = 24; shift >= 0; shift -= 8) {
      choice = in_bins(
          [&](int, float value) {
            const unsigned key = descending(value);
            const bool same = shift == 24 || key >> (shift + 8) == prefix;
            return same && distance(value) == near ? static_cast<int>(key >> shift & 0xFFU) : -1;
          },
          weight, [&](Sum) { return target - before; });
      prefix = prefix << 8 | static_cast<unsigned>(choice.bin);
      before += choice.before;
    }
    return {from_ordered(~prefix), before, choice.inside};
  }

  // The first id at which the running weight reaches target_of(all weight).
  template <class Weight, class Target>
  __device__ int by_id(Weight&& weight, Target&& target_of) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int warp = static_cast<int>(threadIdx.x) / 32;
    const int span = ((end_ - begin_ + kWarps - 1) / kWarps + 31) / 32 * 32;
    const int first = min(begin_ + warp * span, end_);
    const int last = min(first + span, end_);
    Sum mine = 0;
#pragma unroll 4
    for (int i = first + lane; i < last; i += 32) mine += weight(i, values_[i]);
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) mine += __shfl_xor_sync(0xffffffffU, mine, offset);
    if (lane == 0) shared_.sum_of_warp[warp] = mine;
    cluster_sync();
    const unsigned blocks = cluster_blocks();
    const unsigned thread = threadIdx.x;
    const Sum bin = thread < blocks * kWarps ? *in_block(&shared_.sum_of_warp[thread % kWarps], thread / kWarps) : 0;
    Sum target = 0;
    const Choice choice = choose_bin(shared_, bin, [&](Sum total) { return target = target_of(total); });
    const auto owner = static_cast<unsigned>(choice.bin) / kWarps;
    if (owner == cluster_rank() && choice.bin % kWarps == warp) {
      Sum running = choice.before;
      for (int i = first; i < last; i += 32) {
        Sum upto = i + lane < last ? weight(i + lane, values_[i + lane]) : 0;
#pragma unroll
        for (int offset = 1; offset < 32; offset *= 2) {
          const Sum other = __shfl_up_sync(0xffffffffU, upto, offset);
          if (lane >= offset) upto += other;
        }
        const unsigned reached = __ballot_sync(0xffffffffU, running + upto >= target);
        if (reached != 0) {
          if (lane == 0) shared_.found = i + __ffs(static_cast<int>(reached)) - 1;
          break;
        }
        running += __shfl_sync(0xffffffffU, upto, 31);
      }
    }
    cluster_sync();
    return *in_block(&shared_.found, owner);
  }

 private:
  // The weight of the whole cluster's logits by bins (-1: none), and the bin where it reaches the target.
  template <class Bin, class Weight, class Target>
  __device__ Choice in_bins(Bin&& bin_of, Weight&& weight, Target&& target_of) {
    // Two histograms take turns: the others may still be reading the last one.
    auto& histogram = shared_.histogram[turn_];
    turn_ ^= 1;
    for (int i = static_cast<int>(threadIdx.x); i < kPieces * kBins; i += kThreads) histogram[i / kBins][i % kBins] = 0;
    __syncthreads();
    each(values_, begin_, end_, [&](int id, float value) {
      const int bin = bin_of(id, value);
      if (bin < 0) return;
      const Sum w = weight(id, value);
#pragma unroll
      for (int p = 0; p < kPieces; ++p) {
        const auto piece = static_cast<unsigned>(w >> (p * kPieceBits)) & ((1U << kPieceBits) - 1);
        if (piece != 0) atomicAdd(&histogram[p][bin], piece);
      }
    });
    cluster_sync();
    Sum mine = 0;
    if (threadIdx.x < kBins) {
      for (unsigned b = 0; b < cluster_blocks(); ++b) {
#pragma unroll
        for (int p = 0; p < kPieces; ++p) {
          mine += static_cast<Sum>(*in_block(&histogram[p][threadIdx.x], b)) << (p * kPieceBits);
        }
      }
    }
    return choose_bin(shared_, mine, [&](Sum total) { return last_target_ = target_of(total); });
  }

  Shared& shared_;
  const float* values_;
  int begin_;
  int end_;
  float top_;
  int turn_ = 0;
  Sum last_target_ = 0;  // the last target, the same in all threads of the cluster
};

// Rng::uniform_double() at a position.
__device__ inline double uniform(std::uint64_t seed, std::uint64_t position) {
  const std::uint64_t block = position / 4;
  const uint4 words = philox({static_cast<std::uint32_t>(block), static_cast<std::uint32_t>(block >> 32),
                              kSamplingStream.index, static_cast<std::uint32_t>(kSamplingStream.purpose)},
                             {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)});
  const bool second = position % 4 != 0;  // two words at a time
  const std::uint64_t low = second ? words.z : words.x;
  const std::uint64_t high = second ? words.w : words.y;
  return static_cast<double>((high << 32 | low) >> 11) * 0x1p-53;
}

__device__ inline Best better(Best a, Best b) { return {a.key < b.key ? b.key : a.key, a.has_nan | b.has_nan}; }

// The largest logit of the cluster, after every logit has had its penalty.
__device__ Best find_best(Shared& shared, const Request& r, int begin, int end) {
  Best mine{0, 0};
  each(r.logits, begin, end, [&](int id, float value) {
    if (r.seen != nullptr && (r.seen[id / 32] >> (id % 32) & 1U) != 0) {
      value = value < 0 ? value * r.penalty : value / r.penalty;
    }
    value += 0.0F;  // of -0 it makes 0
    if (!r.greedy) r.scaled[id] = value;
    const Sum key = static_cast<Sum>(ordered(value)) << 32 | ~static_cast<unsigned>(id);
    mine = better(mine, isnan(value) ? Best{0, 1} : Best{key, 0});
  });
  const auto across_warp = [](Best best) {
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) {
      best = better(
          best, {__shfl_xor_sync(0xffffffffU, best.key, offset), __shfl_xor_sync(0xffffffffU, best.has_nan, offset)});
    }
    return best;
  };
  mine = across_warp(mine);
  if (threadIdx.x % 32 == 0) shared.best_of_warp[threadIdx.x / 32] = mine;
  __syncthreads();
  mine = across_warp(shared.best_of_warp[threadIdx.x % 32]);
  if (threadIdx.x == 0) shared.best = mine;
  cluster_sync();
  for (unsigned b = 0; b < cluster_blocks(); ++b) mine = better(mine, *in_block(&shared.best, b));
  return mine;
}

// As wick::choose() for logits whose largest is `top`.
__device__ int draw(Shared& shared, const Request& r, int begin, int end, float top, double u) {
  if (r.inverse_temperature != 1) {
    each(r.scaled, begin, end, [&](int id, float value) {
      const double below = static_cast<double>(value) - static_cast<double>(top);
      const double scaled = below == 0 ? 0 : below * r.inverse_temperature;  // which may be infinite
      r.scaled[id] = scaled < -static_cast<double>(3.402823466e38F) ? -INFINITY : static_cast<float>(scaled);
    });
    top = 0;
    __syncthreads();  // by_id() reads what other threads have written
  }
  Search search(shared, r.scaled, begin, end, top);
  const auto probability = [top](float value) { return __float2ull_rn(expf(value - top) * kUnit); };

  float least = -INFINITY;
  if (r.top_k != 0) {
    least = search.by_value([](int, float) { return Sum{1}; }, [&](Sum) { return r.top_k; }).value;
  }
  float nucleus = -INFINITY;  // larger logits are kept, and of those that are as large the ids up to last_id
  int last_id = r.vocab;
  if (r.top_p < 1) {
    Sum target = 0;
    const auto found = search.by_value([&](int, float value) { return value >= least ? probability(value) : 0; },
                                       [&](Sum total) {
                                         target = static_cast<Sum>(ceil(r.top_p * static_cast<double>(total)));
                                         return target = min(target, total);
                                       });
    nucleus = found.value;
    const Sum one = probability(nucleus);
    const Sum wanted = (target - found.before + one - 1) / one;
    if (wanted * one < found.inside) {
      last_id = search.by_id([&](int, float value) { return value == nucleus ? Sum{1} : Sum{0}; },
                             [&](Sum) { return wanted; });
    }
  }
  return search.by_id(
      [&](int id, float value) {
        const bool kept = value >= least && (value > nucleus || (value == nucleus && id <= last_id)) &&
                          static_cast<double>(value - top) >= r.log_min_p;
        return kept ? probability(value) : 0;
      },
      [&](Sum total) { return min(static_cast<Sum>(u * static_cast<double>(total)) + 1, total); });
}

__global__ void __launch_bounds__(kThreads, 1) sample_token(Request r) {
  __shared__ Shared shared;
  wait_for_previous();
  allow_next();
  const int begin = min(static_cast<int>(cluster_rank()) * r.per_block, r.vocab);
  const int end = min(begin + r.per_block, r.vocab);
  const bool speaks = cluster_rank() == 0 && threadIdx.x == 0;
  const auto position = static_cast<std::uint64_t>(*r.position);
  const Best best = find_best(shared, r, begin, end);
  const float top = from_ordered(static_cast<unsigned>(best.key >> 32));
  int id = -1;
  if (best.has_nan == 0 && isfinite(top)) {
    id = static_cast<int>(~static_cast<unsigned>(best.key));
    if (!r.greedy) id = draw(shared, r, begin, end, top, uniform(r.seed, position));
  }
  cluster_sync();  // all have read what changes now, and each other's memory
  if (!speaks) return;
  *r.id = id;
  if (id < 0) return;
  if (!r.greedy) *r.position = static_cast<std::int64_t>(position + 2);
  if (r.seen != nullptr) r.seen[id / 32] |= 1U << (id % 32);
}

Declined sample_token_cuda(const SamplingState& state, const Tensor& logits, const Tensor& id) {
  const std::int64_t vocab = logits.numel();
  const bool clusters =
      info(logits.device().index).major >= 9 &&
      resident_clusters(reinterpret_cast<const void*>(sample_token), kThreads, largest_cluster(), 0) > 0;
  const unsigned blocks = clusters ? largest_cluster() : 1;
  const std::int64_t per_block = (vocab + blocks - 1) / blocks;
  if (per_block > kMostOfBlock) return "a vocabulary that is too large";
  const SamplingOptions& o = state.options;
  const Request request{
      .logits = pointer<float>(logits),
      .scaled = pointer<float>(state.scaled),
      .vocab = static_cast<int>(vocab),
      .per_block = static_cast<int>(per_block),
      .seen = pointer<std::uint32_t>(state.seen),
      .position = pointer<std::int64_t>(state.position),
      .id = pointer<std::int32_t>(id),
      .seed = state.seed,
      .penalty = static_cast<float>(o.repetition_penalty),
      .greedy = o.temperature == 0,
      .inverse_temperature = o.temperature == 0 ? 1 : 1 / o.temperature,
      .top_k = o.top_k < vocab ? static_cast<Sum>(o.top_k) : 0,
      .top_p = o.top_p,
      .log_min_p = o.min_p > 0 ? std::log(o.min_p) : -std::numeric_limits<double>::infinity(),
  };
  launch({"sampling", 4.0 * static_cast<double>(vocab)}, sample_token,
         {.grid = blocks, .block = kThreads, .overlap = true, .cluster = blocks}, request);
  return nullptr;
}

}  // namespace

void register_sampling() { sample_token_kernels.on(DeviceType::cuda) = sample_token_cuda; }

}  // namespace wick::cuda
