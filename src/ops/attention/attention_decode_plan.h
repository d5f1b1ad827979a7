#pragma once

// How attention of single queries with a cache is divided over a device. Host code.

#include <cstdint>
#include <functional>

namespace wick::cuda {

/// What is divided. A unit is a query's heads of one key head, or as many of them as a block takes.
struct DecodeShape {
  std::int64_t units = 0;
  std::int64_t keys = 0;   ///< of a full cache: how many there are only the device knows
  int keys_at_once = 0;    ///< that a block loads before it uses any
  int keys_of_a_warp = 0;  ///< the fewest that are worth a warp
  int head_dim = 0;
  int element_bytes = 0;
};

/// How it is divided: each unit's keys over so many clusters of so many blocks. Those of a cluster join their sums
/// through shared memory, clusters through global memory.
struct DecodePlan {
  int blocks = 1;    ///< of a cluster: 1, 2, 4 or 8
  int clusters = 1;  ///< of a unit
  friend bool operator==(const DecodePlan&, const DecodePlan&) = default;
};

inline constexpr int kDecodeMaxClusters = 64;  ///< of a unit

/// Microseconds beyond a launch's own that a full cache is expected to take: what plans are chosen by.
double decode_time(const DecodeShape& shape, const DecodePlan& plan);
/// The plan that is expected to take the least time, the one with the fewest blocks among equals. Several clusters of a
/// unit, and clusters of several blocks, have all to run at once: what is left of them for a second round takes as long
/// again as the first. `resident(blocks)`: how many clusters of that many blocks run at once; asked for 1 and for
/// powers of two up to `largest_cluster`.
DecodePlan choose_decode_plan(const DecodeShape& shape, int largest_cluster, const std::function<int(int)>& resident);

}  // namespace wick::cuda
