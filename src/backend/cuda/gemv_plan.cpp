#include "backend/cuda/gemv_plan.h"

#include <algorithm>
#include <map>
#include <tuple>

namespace wick::cuda {
namespace {

constexpr int kRegisters = 1 << 16;  // of a multiprocessor

constexpr int over(std::int64_t a, std::int64_t b) { return static_cast<int>((a + b - 1) / b); }

// Fitted to what `gemv_bench --plans` measures in the chain on an H200, to order plans more than to tell their time.
// Nanoseconds, and bytes per nanosecond.
constexpr double kMemory = 4000;        // that the memory yields
constexpr double kIdle = 6700;          // bytes under way on each multiprocessor with which it would yield half of that
constexpr double kMultiprocessor = 38;  // that one multiprocessor can take in
constexpr double kLatency = 1350;       // of a load among many others
constexpr double kUneven = 0.1;         // of what the busiest reads beyond its share: the next kernel fills the rest
constexpr double kLaunch = 1200;        // before the first weights and after the last
constexpr double kAhead = 2125;         // the kernel ahead leaves so much time for weights that do not wait for it
constexpr double kBlock = 340;          // that a block spends on x beside its copy,
constexpr double kShared = 100;         // and the copy
constexpr double kSum = 250;            // warps that share a unit wait for the last of them
constexpr double kPart = 50;            // and one of them adds up what each has. Hidden by loads in all turns but one
constexpr double kRegister = 0.0255;    // of a block: they come free for the next kernel together, with its last warp

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
  const double ahead = std::min(kAhead, plan.ahead * batch_bytes * multiprocessors / kMemory);
  const double weights = std::max(0.0, std::max(memory, intake) - ahead);
  const double share = static_cast<double>(d.units) / multiprocessors;
  const double uneven = kUneven * (busiest - share) * unit_bytes / kMultiprocessor;
  const double x = neighbours * (kBlock + 2.0 * static_cast<double>(shape.k) / kShared);
  const double sums = d.parts > 1 ? kSum + kPart * d.parts : 0;
  const int registers = kRegisters / gemv_warps(plan.loads) * plan.warps;
  return kLaunch + weights + uneven + x + sums + kRegister * registers;
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
