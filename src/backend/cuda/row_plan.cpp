#include "backend/cuda/row_plan.h"

#include <algorithm>
#include <bit>
#include <map>
#include <mutex>
#include <tuple>

#include "core/batch_invariance.h"

namespace wick::cuda {
namespace {

constexpr std::int64_t kWarp = 32;
// Longer rows go to more blocks rather than more threads: blocks take turns in loading and storing.
constexpr std::int64_t kUsualTeam = 256;
constexpr std::int64_t kThreadsAtOnce = 1024;  // a multiprocessor's, at 64 registers each
constexpr std::int64_t kSchedulers = 4;        // of warps, in a multiprocessor
constexpr double kFar = 4;                     // a call that moves so many times what L2 holds

thread_local const RowTrial* trial = nullptr;

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }
unsigned whole_warps(std::int64_t threads) { return static_cast<unsigned>(ceil_div(threads, kWarp) * kWarp); }

// Teams of part of a warp, or a whole one, for rows of `length` packs.
RowPlan warp_teams(std::int64_t length, int packs, int weights) {
  const auto team = std::bit_ceil(static_cast<unsigned>(std::max<std::int64_t>(ceil_div(length, packs), 1)));
  return {Span::warp, packs, weights, team, static_cast<unsigned>(RowKernels::brief_threads) / team, 1};
}

RowPlan block_team(std::int64_t length, int packs, int weights) {
  return {Span::block, packs, weights, whole_warps(ceil_div(length, packs))};
}

}  // namespace

RowPlan plan_cluster(std::int64_t packs, int held, const ClusterRows& how) {
  const int each = held / how.rows;
  unsigned cluster = 2;
  while (packs > std::int64_t{cluster} * how.threads * each) cluster *= 2;
  if (cluster > std::min(static_cast<unsigned>(how.blocks), largest_cluster())) return {};
  return {Span::cluster, each, how.weights, static_cast<unsigned>(how.threads), 1, cluster, how.rows, true};
}

RowPlan plan_rows(std::int64_t rows, std::int64_t packs, const RowKernels& kernels, const DeviceInfo& device) {
  if (packs <= kWarp * kernels.brief) return warp_teams(packs, kernels.brief, kernels.brief);
  const bool warps = packs <= kWarp * kernels.brief_2;
  // Few rows: all of them are in registers at the same time, on as many threads as there are, or where there is a warp
  // for each scheduler, in warps, which need not wait for others.
  if (!BatchInvariance::wanted() && packs <= RowKernels::few_threads * kernels.few &&
      rows * packs <= device.multiprocessors * kThreadsAtOnce * kernels.few) {
    if (warps && rows >= kSchedulers * device.multiprocessors) {
      return warp_teams(packs, kernels.brief_2, kernels.brief_2);
    }
    return block_team(packs, kernels.few, kernels.few);
  }
  if (warps) return warp_teams(packs, kernels.brief_2, 2);
  if (kernels.many == 0) return {};
  const bool clusters = device.major >= 9 && largest_cluster() > 1;
  // Twice the threads with half as much each: more of them load while others compute.
  if (packs <= RowKernels::many_threads * kernels.middle) return block_team(packs, kernels.middle, 2);
  if (packs <= (clusters ? kUsualTeam : RowKernels::many_threads) * kernels.many) {
    return block_team(packs, kernels.many, 2);
  }
  if (!clusters) return {};
  for (const ClusterRows& how : {kernels.cluster, kernels.longer}) {
    if (how.rows == 0) continue;
    const RowPlan plan = plan_cluster(packs, kernels.many, how);
    if (plan.packs != 0) return plan;
  }
  unsigned cluster = 2;
  while (cluster < largest_cluster() && ceil_div(packs, cluster) > kUsualTeam * kernels.many) cluster *= 2;
  const std::int64_t threads = ceil_div(ceil_div(packs, cluster), kernels.many);
  if (threads > RowKernels::many_threads) return {};
  return {Span::cluster, kernels.many, 2, whole_warps(threads), 1, cluster};
}

RowPlan plan_loop(std::int64_t accesses) {
  return {Span::block, 0, 0, whole_warps(std::clamp<std::int64_t>(ceil_div(accesses, 8), 1, kLoopThreads))};
}

L2Marks plan_marks(double bytes, bool forward, const DeviceInfo& device) {
  const auto l2 = static_cast<double>(device.l2_bytes);
  if (forward && bytes > kFar * l2) return {.reads = Evict::last, .writes = Evict::usual};
  if (bytes > l2) return {.reads = Evict::first, .writes = Evict::first};
  return {};
}

RowTrial::RowTrial(L2Marks how, const RowPlan& planned) : marks(how), plan(planned) { trial = this; }
RowTrial::~RowTrial() { trial = nullptr; }
const RowTrial* RowTrial::current() { return trial; }

std::size_t team_scratch(const RowPlan& plan) {
  if (plan.span == Span::warp) return 0;
  return kTeamBarrier + std::size_t{plan.team} / 32 * plan.cluster * static_cast<std::size_t>(plan.rows) * kTeamSlot;
}

namespace {

int count_clusters(const void* kernel, unsigned threads, unsigned cluster, std::size_t shared, bool packed) {
  if (shared > 48 * 1024) {  // as launch() does; a lower limit would stand in the way of other launches
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)),
          "a cluster's shared memory");
  }
  cudaLaunchAttribute attributes[2] = {};
  attributes[0].id = cudaLaunchAttributeClusterDimension;
  attributes[0].val.clusterDim.x = cluster;
  attributes[0].val.clusterDim.y = 1;
  attributes[0].val.clusterDim.z = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(cluster);
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared;
  config.attrs = attributes;
  int found = 0;
  if (packed && cluster > 1) {
    attributes[1].id = cudaLaunchAttributeClusterSchedulingPolicyPreference;
    attributes[1].val.clusterSchedulingPolicyPreference = cudaClusterSchedulingPolicyLoadBalancing;
    config.numAttrs = 2;
    if (cudaOccupancyMaxActiveClusters(&found, kernel, &config) == cudaSuccess) return found;
    static_cast<void>(cudaGetLastError());  // the policy is not taken here: ask without it, which counts no more
  }
  config.numAttrs = 1;
  check(cudaOccupancyMaxActiveClusters(&found, kernel, &config), "counting clusters");
  return found;
}

}  // namespace

int resident_clusters(const void* kernel, unsigned threads, unsigned cluster, std::size_t shared, bool packed) {
  static std::mutex mutex;
  static std::map<std::tuple<int, const void*, unsigned, unsigned, std::size_t, bool>, int> known;
  const std::scoped_lock lock(mutex);
  const std::tuple key{current_device(), kernel, threads, cluster, shared, packed};
  const auto found = known.find(key);
  if (found != known.end()) return found->second;
  return known.emplace(key, count_clusters(kernel, threads, cluster, shared, packed)).first->second;
}

}  // namespace wick::cuda
