#pragma once

// The kernels of an op on rows, and their launches as row_plan.h plans them.

#include <algorithm>
#include <initializer_list>
#include <type_traits>

#include "backend/cuda/rows.cuh"

namespace wick::cuda {

/// The blocks that launch bounds ask for, from the registers that a thread needs; a multiprocessor has 65536 of them.
/// The rows that they hold are what is on its way from memory at the same time: while one block computes, others load.
template <Span kSpan, int kThreads, int kInWarp, int kInBlock>
inline constexpr int kMinBlocks = std::max(1, 65536 / (kThreads * (kSpan == Span::warp ? kInWarp : kInBlock)));

/// What a thread of a block needs at most in a kernel with one input, of which it holds so many packs.
template <int kPacks>
inline constexpr int kBlockRegisters = kPacks == kOneInput.middle ? 40 : 64;

/// One of an op's kernels: the span of a row, its packs in a thread, the packs of a weight vector that a thread has at
/// a time, and the largest block.
template <Span kSpan, int kPacks, int kWeights, int kThreads>
struct RowKernel {
  static constexpr Span span = kSpan;
  static constexpr int packs = kPacks;
  static constexpr int weights = kWeights;
  static constexpr int threads = kThreads;
  static constexpr int rows = 1;
  static constexpr bool early = weights == packs;
  template <class Exchanged, bool kExpectsFirst>
  using Team = cuda::Team<span, packs, Exchanged, kExpectsFirst>;
};
/// The one of ClusterRows.
template <int kRows, int kPacks, int kWeights, bool kEarly, int kThreads>
struct ClusterKernel {
  static constexpr Span span = Span::cluster;
  static constexpr int rows = kRows;
  static constexpr int packs = kPacks;
  static constexpr int weights = kWeights;
  static constexpr bool early = kEarly;
  static constexpr int threads = kThreads;
  template <class Exchanged, bool kExpectsFirst>
  using Team = cuda::Team<span, packs, Exchanged, kExpectsFirst, threads>;
};

/// Calls fn(RowKernel{}), or fn(ClusterKernel{}), for the kernel of the plan.
template <const RowKernels& kKernels, class Fn>
void visit_plan(const RowPlan& plan, Fn&& fn) {
  constexpr RowKernels k = kKernels;
  if (plan.full) {
    if constexpr (constexpr ClusterRows c = k.cluster; c.rows != 0) {
      if (plan.rows == c.rows) fn(ClusterKernel<c.rows, k.many / c.rows, c.weights, c.early, c.threads>{});
    }
    if constexpr (constexpr ClusterRows c = k.longer; c.rows != 0) {
      if (plan.rows == c.rows) fn(ClusterKernel<c.rows, k.many / c.rows, c.weights, c.early, c.threads>{});
    }
  } else if (plan.span == Span::cluster) {
    if constexpr (k.many != 0) fn(RowKernel<Span::cluster, k.many, 2, k.many_threads>{});
  } else if (plan.span == Span::warp && plan.packs == k.brief) {
    fn(RowKernel<Span::warp, k.brief, k.brief, k.brief_threads>{});
  } else if (plan.span == Span::warp) {
    if constexpr (k.brief_2 != 0) {
      if (plan.weights == k.brief_2) {
        fn(RowKernel<Span::warp, k.brief_2, k.brief_2, k.brief_threads>{});
      } else {
        fn(RowKernel<Span::warp, k.brief_2, 2, k.brief_threads>{});
      }
    }
  } else if (k.middle != 0 && plan.packs == k.middle) {
    if constexpr (k.middle != 0) fn(RowKernel<Span::block, k.middle, 2, k.many_threads>{});
  } else if (plan.packs == k.many) {
    if constexpr (k.many != 0) fn(RowKernel<Span::block, k.many, 2, k.many_threads>{});
  } else {
    if constexpr (k.few != 0) fn(RowKernel<Span::block, k.few, k.few, k.few_threads>{});
  }
}

/// make(std::bool_constant): an op's kernel for a RowKernel; of a cluster, under_racecheck(), the one whose teams
/// expect first (see Team).
template <class K, class Make>
auto choose_for_racecheck(K, Make&& make) {
  if constexpr (K::span == Span::cluster) {
    if (under_racecheck()) return make(std::true_type{});
  }
  return make(std::false_type{});
}

/// One call of an op on rows.
struct RowCall {
  Work work;
  std::int64_t rows, columns;
  bool packed;  ///< every row and vector starts on 16 bytes
  int device;
  bool forward = false;  ///< see plan_marks()
};
/// The call that reads or writes these tensors, each of which may be undefined, but not the first one, a matrix.
inline RowCall row_call(const char* name, std::initializer_list<const Tensor*> matrices,
                        std::initializer_list<const Tensor*> vectors) {
  const Tensor& first = **matrices.begin();
  RowCall call = {.work = {.name = name},
                  .rows = first.size(0),
                  .columns = first.size(1),
                  .packed = true,
                  .device = first.device().index};
  for (const Tensor* t : matrices) {
    call.packed = call.packed && packs(*t);
    if (t->defined()) call.work.bytes += static_cast<double>(t->numel()) * static_cast<double>(size_of(t->dtype()));
  }
  for (const Tensor* t : vectors) call.packed = call.packed && packs(*t);
  return call;
}

inline RowCall forward_call(const char* name, std::initializer_list<const Tensor*> matrices,
                            std::initializer_list<const Tensor*> vectors) {
  RowCall call = row_call(name, matrices, vectors);
  call.forward = true;
  return call;
}

/// Packs or single elements of a row, as the call's rows allow.
template <class T>
std::int64_t accesses_of(const RowCall& call) {
  return call.packed && call.columns % kPackSize<T> == 0 ? call.columns / kPackSize<T> : call.columns;
}
inline RowShape row_shape(const RowCall& call, std::int64_t length) {
  return {.rows = call.rows,
          .length = length,
          .inverse = 1.0F / static_cast<float>(call.columns),
          .part = 0,
          .cluster = 1,
          .waiting = 0,
          .marks = plan_marks(call.work.bytes, call.forward, info(call.device))};
}

/// Launches a kernel for rows in registers as planned. Its last parameter is their shape.
template <class Kernel, class... Arguments>
void launch_plan(const RowCall& call, const RowPlan& plan, Kernel kernel, RowShape shape, Arguments... arguments) {
  shape.part = static_cast<int>(blocks_for(shape.length, plan.cluster));
  shape.cluster = plan.cluster;
  // A warp is enough, but racecheck of compute-sanitizer then waits for the others for ever.
  shape.waiting = under_racecheck() ? plan.team : 32;
  launch(call.work, kernel,
         {.grid = dim3(blocks_for(call.rows, std::int64_t{plan.teams} * plan.rows) * plan.cluster),
          .block = dim3(plan.team, plan.teams),
          .shared = team_scratch(plan),
          .overlap = true,
          .cluster = plan.cluster},
         arguments..., shape);
}

/// For kernels that read a row more than once, a block for each: fn(element) for a thread's accesses of kSize elements.
template <int kSize, class Fn>
__device__ inline void each_access(const RowShape& shape, Fn&& fn) {
  for (std::int64_t i = threadIdx.x; i < shape.length; i += blockDim.x) fn(i * kSize);
}

/// Launches the kernel for the call's rows, whose last parameter is their shape: pick(RowKernel) for rows that fit into
/// registers, else loop(std::integral_constant<int, size>), which reads them more than once in accesses of that size.
template <class T, const RowKernels& kKernels, class Pick, class Loop, class... Arguments>
void run_rows(const RowCall& call, Pick&& pick, Loop&& loop, Arguments... arguments) {
  constexpr int kSize = kPackSize<T>;
  const std::int64_t length = accesses_of<T>(call);
  const bool packed = length < call.columns;
  RowShape shape = row_shape(call, length);
  RowPlan plan = packed ? plan_rows(call.rows, length, kKernels, info(call.device)) : RowPlan{};
  if (const RowTrial* trial = RowTrial::current()) {
    shape.marks = trial->marks;
    if (trial->plan.packs != 0) plan = trial->plan;
  }
  if (plan.packs != 0) {
    visit_plan<kKernels>(plan, [&](auto choice) { launch_plan(call, plan, pick(choice), shape, arguments...); });
    return;
  }
  const RowPlan walk = plan_loop(length);
  const Launch how = {
      .grid = dim3(blocks_for(call.rows, 1)), .block = dim3(walk.team), .shared = team_scratch(walk), .overlap = true};
  if (packed) {
    launch(call.work, loop(std::integral_constant<int, kSize>{}), how, arguments..., shape);
  } else {
    launch(call.work, loop(std::integral_constant<int, 1>{}), how, arguments..., shape);
  }
}

}  // namespace wick::cuda
