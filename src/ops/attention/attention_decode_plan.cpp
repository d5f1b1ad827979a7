#include "ops/attention/attention_decode_plan.h"

#include <algorithm>
#include <cmath>

namespace wick::cuda {
namespace {

// Fitted to what `attention_bench time decode` measures with plans of all kinds on an H200, 2 and 8 key heads of 64 and
// 128, to within a tenth of most, and to whole tokens where caches are short (`wick bench decode`): to order plans more
// than to tell their time. Microseconds.
constexpr double kMemory = 4.45e6;      // bytes that the memory yields
constexpr double kRound = 1.0;          // of a block: its loads, and what it does with them
constexpr double kElement = 0.25 / 64;  // more for each element of a head
constexpr double kLatency = 0.4;        // share of a round that does not shrink with its keys
constexpr double kFewBlocks = 16;       // so many cost no more than one,
constexpr double kBlocks = 0.8;         // and each doubling beyond them that
constexpr double kJoin = 1.0;           // of clusters
constexpr double kPart = 0.05;          // of each

std::int64_t over(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

}  // namespace

double decode_time(const DecodeShape& shape, const DecodePlan& plan) {
  const std::int64_t blocks = std::int64_t{plan.blocks} * plan.clusters;  // of a unit
  const std::int64_t keys_at_once = blocks * shape.keys_at_once;
  const auto whole_rounds = static_cast<double>(over(shape.keys, keys_at_once));
  const double rounds = static_cast<double>(shape.keys) / static_cast<double>(keys_at_once);
  const double work = (kRound + kElement * shape.head_dim) * (kLatency * whole_rounds + (1 - kLatency) * rounds);
  const double bytes = 2.0 * static_cast<double>(shape.units * shape.keys) * shape.head_dim * shape.element_bytes;
  const double all_blocks = std::max(static_cast<double>(shape.units * blocks), kFewBlocks);
  const double join = plan.clusters > 1 ? kJoin + kPart * plan.clusters : 0;
  // Few blocks wait for their loads, many for the memory.
  return std::hypot(work, bytes / kMemory) + kBlocks * std::log2(all_blocks / kFewBlocks) + join;
}

DecodePlan choose_decode_plan(const DecodeShape& shape, int largest_cluster, const std::function<int(int)>& resident) {
  DecodePlan best;
  double best_time = decode_time(shape, best);
  const auto consider = [&](const DecodePlan& plan) {
    const double time = decode_time(shape, plan);
    if (time > best_time) return;
    if (time == best_time && plan.blocks * plan.clusters >= best.blocks * best.clusters) return;
    best = plan;
    best_time = time;
  };
  for (int blocks = 1; blocks <= largest_cluster; blocks *= 2) {
    // A block more has no keys.
    if (blocks > 1 && std::int64_t{blocks / 2} * shape.keys_of_a_warp >= shape.keys) break;
    const std::int64_t fit = resident(blocks) / std::max<std::int64_t>(shape.units, 1);
    const std::int64_t useful = over(shape.keys, std::int64_t{blocks} * shape.keys_at_once);
    const auto most = static_cast<int>(std::min({fit, useful, std::int64_t{kDecodeMaxClusters}}));
    for (int clusters = 1; clusters <= most; ++clusters) consider({blocks, clusters});
  }
  return best;
}

}  // namespace wick::cuda
