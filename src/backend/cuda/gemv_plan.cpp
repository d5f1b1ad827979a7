#include "backend/cuda/gemv_plan.h"

#include <algorithm>
#include <map>
#include <tuple>

namespace wick::cuda {
namespace {

constexpr int kRegisters = 1 << 16;  // of a multiprocessor

constexpr int over(std::int64_t a, std::int64_t b) { return static_cast<int>((a + b - 1) / b); }

// Of an H200, to be fitted to what `gemv_bench --plans` measures. Nanoseconds, and bytes per nanosecond.
constexpr double kMemory = 4160;        // that the memory yields
constexpr double kIdle = 6000;          // bytes under way on each multiprocessor with which it would yield half of that
constexpr double kMultiprocessor = 38;  // that one multiprocessor can take in
constexpr double kLatency = 1200;       // of a load among many others
constexpr double kLaunch = 2000;     // from the end of the kernel ahead to the first sums, and from the last to the end
constexpr double kAhead = 800;       // of which the weights that do not wait for the kernel ahead fill so much
constexpr double kTurn = 150;        // warps that share a unit wait for the last of them
constexpr double kPart = 10;         // and one of them adds up what each has
constexpr double kStacked = 0.25;    // of a block's weights: two may lie on one multiprocessor while others idle
constexpr double kRegister = 0.006;  // that is taken: so much less of the next kernel's weights can come ahead

}  // namespace

GemvDivision divide(const GemvShape& shape, const GemvPlan& plan) {
  GemvDivision d = {};
  d.parts = plan.parts;
  d.teams = plan.warps / plan.parts;
  d.units = over(shape.n, kGemvUnit);
  d.chunks = over(shape.k, kGemvChunk);
  d.turns = over(d.units, d.teams);
  d.batches = over(over(d.chunks, d.parts), gemv_batch(plan.loads, shape.swiglu));
  d.reciprocal = (1 << 16) / d.parts + 1;
  return d;
}

int gemv_blocks(const GemvDivision& division, int multiprocessors, int resident) {
  return std::min(division.turns, multiprocessors * resident);
}

double gemv_time(const GemvShape& shape, const GemvPlan& plan, int multiprocessors) {
  const GemvDivision d = divide(shape, plan);
  const int blocks = gemv_blocks(d, multiprocessors, plan.resident);
  const int turns = over(d.turns, blocks);
  // Of the multiprocessor that has the first block, and so the most: its blocks, and the units they work on.
  const int neighbours = over(blocks, multiprocessors);
  int busiest = 0;
  for (int block = 0; block < blocks; block += multiprocessors) busiest += over(d.turns - block, blocks) * d.teams;
  const double unit_bytes = 2.0 * kGemvUnit * static_cast<double>(shape.k) * (shape.swiglu ? 2 : 1);
  // Batches are loads of 512 bytes, fewer at the end of a row.
  const double slots = static_cast<double>(d.parts) * d.batches * gemv_batch(plan.loads, shape.swiglu);
  const double batch_bytes = 512.0 * plan.loads * neighbours * plan.warps * (d.chunks / slots);
  const double in_flight = 2 * batch_bytes;

  const double memory = d.units * unit_bytes / kMemory * (1 + kIdle / in_flight);
  const double intake = busiest * unit_bytes * std::max(1 / kMultiprocessor, kLatency / in_flight);
  const bool stacks = blocks > 1 && gemv_warps(plan.loads) / plan.warps > neighbours;
  const double stacked = stacks ? kStacked * turns * d.teams * unit_bytes / kMultiprocessor : 0;
  const int registers = kRegisters / gemv_warps(plan.loads) * neighbours * plan.warps;
  const double ahead = std::min(kAhead, plan.ahead * batch_bytes * multiprocessors / kMemory);
  const double weights = std::max(0.0, std::max(memory, intake) - ahead);
  const double x = neighbours * 2.0 * static_cast<double>(shape.k) / kMultiprocessor;
  const double sums = d.parts > 1 ? turns * (kTurn + kPart * d.parts) : 0;
  return kLaunch + weights + stacked + x + sums + kRegister * registers;
}

std::vector<GemvPlan> gemv_plans(const GemvShape& shape, int multiprocessors) {
  constexpr int kFewest = 4;  // warps: fewer do not keep the memory busy, and no block needs to be so small
  std::vector<GemvPlan> plans;
  for (const int loads : {8, 4}) {
    for (int warps = kFewest; warps <= gemv_max_warps(loads); ++warps) {
      for (int parts = 1; parts <= std::min(warps, over(shape.k, kGemvChunk)); ++parts) {
        if (warps % parts != 0) continue;
        // A second batch of many loads ahead of x is as many as keep x waiting.
        for (int ahead = 1; ahead <= (loads == 4 ? 2 : 1); ++ahead) {
          for (int resident = 1; resident <= gemv_warps(loads) / warps; ++resident) {
            const GemvPlan plan = {warps, parts, loads, ahead, resident};
            if (resident > 1 && divide(shape, plan).turns <= multiprocessors * (resident - 1)) break;
            plans.push_back(plan);
          }
        }
      }
    }
  }
  return plans;
}

GemvPlan choose_gemv_plan(const GemvShape& shape, int multiprocessors) {
  using Key = std::tuple<std::int64_t, std::int64_t, bool, int>;
  constexpr std::size_t kMost = 256;  // a model has few; other products may have ever new ones
  static thread_local std::map<Key, GemvPlan> known;
  if (known.size() >= kMost) known.clear();
  const auto [entry, is_new] = known.try_emplace(Key{shape.n, shape.k, shape.swiglu, multiprocessors});
  if (!is_new) return entry->second;
  const std::vector<GemvPlan> plans = gemv_plans(shape, multiprocessors);
  return entry->second = *std::ranges::min_element(
             plans, {}, [&](const GemvPlan& plan) { return gemv_time(shape, plan, multiprocessors); });
}

}  // namespace wick::cuda
