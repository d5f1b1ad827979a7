#pragma once

// How a product of few rows is divided over a device. Host code, but for what is constexpr.

#include <cstddef>
#include <cstdint>
#include <vector>

namespace wick::cuda {

inline constexpr int kGemvUnit = 8;     ///< rows of the weight that a warp works on; with SwiGLU twice, gate and up
inline constexpr int kGemvChunk = 64;   ///< columns: a line of each row, in two loads
inline constexpr int kGemvMaxRows = 8;  ///< of x

/// Warps that fit in a multiprocessor's registers, and those that a block may have.
constexpr int gemv_warps(int loads) { return loads > 4 ? 16 : 20; }
constexpr int gemv_max_warps(int loads) { return loads > 4 ? 16 : 10; }

/// What is divided: y [m, n], weight [n, k], or gate and up of that size. The number of rows of x is not part of it, so
/// that the order of sums does not depend on it.
struct GemvShape {
  std::int64_t n = 0, k = 0;
  bool swiglu = false;
};

/// How it is divided.
struct GemvPlan {
  int warps = 8;     ///< of a block
  int parts = 1;     ///< of k: so many warps of a block share a unit. Divides warps
  int loads = 8;     ///< of 16 bytes in a lane's batch, 4 or 8. A warp has two batches under way
  int ahead = 1;     ///< of these batches, those that do not wait for the kernel ahead
  int resident = 1;  ///< blocks on a multiprocessor
  friend bool operator==(const GemvPlan&, const GemvPlan&) = default;
};

/// Which part of the weight a warp reads when. Blocks take turns; in a turn every team of `parts` warps has a unit, of
/// which each of its warps takes every parts-th chunk, a batch at a time.
struct GemvDivision {
  int parts, teams;    // teams to a block
  int units, chunks;   // of the whole weight
  int turns, batches;  // turns of all blocks together, batches of a turn
  int reciprocal;      // of parts

  constexpr int team(int warp) const { return warp * reciprocal >> 16; }
  constexpr int part(int warp) const { return warp - team(warp) * parts; }
  constexpr int unit(int turn, int warp) const { return turn * teams + team(warp); }
  /// The i-th of a batch of `size` chunks; may lie behind the last chunk.
  constexpr int chunk(int part, int batch, int size, int i) const { return part + parts * (batch * size + i); }
};

/// Chunks in a batch.
constexpr int gemv_batch(int loads, bool swiglu) { return loads / (swiglu ? 4 : 2); }
GemvDivision divide(const GemvShape& shape, const GemvPlan& plan);
/// At most `resident` to a multiprocessor.
int gemv_blocks(const GemvDivision& division, int multiprocessors, int resident);

/// Nanoseconds that the product is expected to take in a chain of products with one row of x: what plans are chosen by.
double gemv_time(const GemvShape& shape, const GemvPlan& plan, int multiprocessors);
/// Every plan that the kernels take, less those that come to the same.
std::vector<GemvPlan> gemv_plans(const GemvShape& shape, int multiprocessors);
/// The one of them that is expected to take the least time.
GemvPlan choose_gemv_plan(const GemvShape& shape, int multiprocessors);

}  // namespace wick::cuda
