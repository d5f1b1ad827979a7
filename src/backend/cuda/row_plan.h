#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

#include "backend/cuda/l2_marks.h"
#include "backend/cuda/runtime.h"

namespace wick::cuda {

/// Divides numbers below 2^31 by one that is known beforehand, from 1 to 2^31: a product and a shift.
class Divisor {
 public:
  constexpr explicit Divisor(std::uint32_t value)
      : value_(value),
        shift_(31 + std::bit_width(value - 1)),
        factor_(static_cast<std::uint32_t>(((std::uint64_t{1} << shift_) + value - 1) / value)) {}
  constexpr std::uint32_t value() const { return value_; }
  constexpr std::uint32_t divide(std::uint32_t number) const {
    return static_cast<std::uint32_t>(std::uint64_t{number} * factor_ >> shift_);
  }

 private:
  std::uint32_t value_;
  int shift_;
  std::uint32_t factor_;  // 2^shift / value, rounded up: too large by less than 2^-31 of it
};

/// Who shares a row: a part of a warp (a power of two of its threads), a block, or the blocks of a cluster.
enum class Span { warp, block, cluster };

/// How an op on rows spreads them over the device. A row is counted in packs of 16 bytes and is held in registers,
/// between one read and one write of memory, by a team of threads.
struct RowPlan {
  Span span = Span::warp;
  int packs = 0;         ///< of a row in each thread; 0: the row does not fit
  int weights = 2;       ///< packs of a weight vector that a thread has in registers at a time, see RowKernels
  unsigned team = 1;     ///< threads of a block that share a row
  unsigned teams = 1;    ///< rows in a block
  unsigned cluster = 1;  ///< blocks that share a row
  int rows = 1;          ///< that a cluster holds side by side
  bool full = false;     ///< a cluster of ClusterRows
};

/// How clusters hold rows where several weight vectors are read. They are as long as the row, which with them takes
/// more out of L2 than it delivers: a cluster that holds several rows reads the weights once for all.
struct ClusterRows {
  int rows = 0;        ///< held side by side: a thread has `many` / rows packs of each; 0: no such kernel
  int weights = 0;     ///< packs of a weight vector that a thread has at a time
  bool early = false;  ///< the first of them are read before the cluster's warps have met, not after
  int threads = 0;     ///< of every block: a number that the compiler knows saves registers
  int blocks = 8;      ///< at most: larger clusters wait longer, and leave more multiprocessors idle
};

/// Packs that a thread of an op's kernels holds of a row, by span, and the kernels' largest blocks.
///
/// Every row reads the weights again, from L1 or L2, so they are not worth a register each: a thread has two packs of
/// them at a time. Only in short rows and few rows, where latency shows, it has all of its packs.
struct RowKernels {
  int few = 0;               ///< in a block, where there are few rows and latency counts; 0: no such kernel
  int brief = 4;             ///< in a warp
  int brief_2 = 0;           ///< in a warp, for rows too long for `brief`; 0: no such kernel
  int middle = 0;            ///< in a block that is alone, where a row fits into one; 0: no such kernel
  int many = 4;              ///< in a block, alone or of a cluster; 0: no such kernel
  ClusterRows cluster = {};  ///< for rows that such a cluster can hold
  ClusterRows longer = {};   ///< for those that only this one can; others have a cluster each, of any size

  static constexpr int few_threads = 1024, brief_threads = 128, many_threads = 512;
};
inline constexpr RowKernels kOneInput = {.few = 2, .brief_2 = 8, .middle = 4, .many = 8};
// `row_bench --plans` times other clusters.
inline constexpr RowKernels kTwoWeights = {
    .few = 2,
    .brief_2 = 8,
    .many = 8,
    .cluster = {.rows = 2, .weights = 2, .early = true, .threads = 512, .blocks = 2},
    .longer = {.rows = 1, .weights = 2, .early = true, .threads = 512}};
inline constexpr RowKernels kTwoInputs = {.few = 2};
inline constexpr RowKernels kBackward = {};
inline constexpr RowKernels kHeads = {.many = 0};  // that do not lie in a matrix: short

/// The smallest cluster for rows of `packs` packs, of which a thread holds `held`. `packs` is 0 in the result where the
/// rows are too long for that.
RowPlan plan_cluster(std::int64_t packs, int held, const ClusterRows& how);

/// `packs` is 0 in the result where rows are too long: a kernel must read them more than once.
RowPlan plan_rows(std::int64_t rows, std::int64_t packs, const RowKernels& kernels, const DeviceInfo& device);

/// How a call on rows that moves `bytes` marks them. What L2 can hold stays there, for whoever reads it next. Of more,
/// nothing is left by the time that somebody would, and it makes room for other things. Far more is written as fast as
/// memory takes it when L2 has little but results to evict, in the order in which they came: a `forward` call, which
/// reads as much as it writes, gains 3 %, and what it has read it leaves behind.
L2Marks plan_marks(double bytes, bool forward, const DeviceInfo& device);

/// While one lives, the ops on rows that its thread launches have these marks, and this plan where it holds packs; the
/// kernel of the cross-entropy has the mark for what is read. For benchmarks, which time one choice beside another. The
/// plan must be of a kernel that the op has, and hold the row.
class RowTrial {
 public:
  explicit RowTrial(L2Marks marks, const RowPlan& plan = {});
  ~RowTrial();
  RowTrial(const RowTrial&) = delete;
  RowTrial& operator=(const RowTrial&) = delete;

  static const RowTrial* current();  ///< null: there is none

  const L2Marks marks;
  const RowPlan plan;
};

/// The clusters that run at the same time of a kernel, given as its host function. `shared`: bytes of dynamic shared
/// memory; `packed`: they are launched so, see Launch.
int resident_clusters(const void* kernel, unsigned threads, unsigned cluster, std::size_t shared, bool packed = false);

/// Blocks for kernels that walk over a row in `accesses` of any size.
inline constexpr int kLoopThreads = 512;  ///< at most
RowPlan plan_loop(std::int64_t accesses);

/// Bytes of shared memory in which the warps of a team meet: an mbarrier and a slot for each warp.
inline constexpr unsigned kTeamBarrier = 16;
inline constexpr unsigned kTeamSlot = 16;
std::size_t team_scratch(const RowPlan& plan);

}  // namespace wick::cuda
