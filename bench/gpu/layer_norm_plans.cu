#include "gpu/layer_norm_plans.h"

#include "ops/layer_norm/layer_norm_rows.cuh"

namespace wick::bench {
namespace {

using cuda::ClusterRows;
using T = __nv_bfloat16;

constexpr int kHeld = 8;  // packs of all rows in a thread: more do not fit

struct Call {
  cuda::RowCall rows;
  const Tensor &x, &weight, &bias, &y, &stats;
  float eps;
};

template <class Kernel>
void launch(const Call& c, const cuda::RowPlan& plan) {
  const auto means = cuda::pointer<float>(c.stats);
  cuda::launch_plan(c.rows, plan, cuda::layer_norm_rows<T, false, Kernel, false>,
                    cuda::row_shape(c.rows, cuda::accesses_of<T>(c.rows)),
                    cuda::InputRows<T>{cuda::rows_of<const T>(c.x)}, cuda::InputRows<T>{},
                    cuda::pointer<const T>(c.weight), cuda::pointer<const T>(c.bias), c.eps, cuda::Rows<T>{},
                    cuda::rows_of<T>(c.y), means, means + c.stats.stride(0));
}

template <int kRows, int kWeights, bool kEarly, int kThreads>
struct Variant {
  static constexpr ClusterRows rows = {kRows, kWeights, kEarly, kThreads};
  using Kernel = cuda::ClusterKernel<kRows, kHeld / kRows, kWeights, kEarly, kThreads>;
};

struct Entry {
  const ClusterRows& rows;
  void (*launch)(const Call&, const cuda::RowPlan&);
};
template <class... Variants>
struct List {
  static constexpr Entry entries[sizeof...(Variants)] = {{Variants::rows, launch<typename Variants::Kernel>}...};
};
using All =
    List<Variant<1, 2, false, 512>, Variant<1, 2, true, 512>, Variant<1, 1, true, 512>, Variant<1, 2, false, 256>,
         Variant<2, 1, false, 512>, Variant<2, 1, true, 512>, Variant<2, 2, false, 512>, Variant<2, 2, true, 512>,
         Variant<2, 2, false, 256>, Variant<2, 2, true, 256>, Variant<4, 1, true, 512>, Variant<4, 2, false, 512>>;

// The kernel that ops with one weight vector have.
using OneRow = cuda::RowKernel<cuda::Span::cluster, cuda::kOneInput.many, 2, cuda::RowKernels::many_threads>;

std::string name_of(const cuda::RowPlan& plan, const char* weights) {
  return std::to_string(plan.rows) + (plan.rows == 1 ? " row, " : " rows, ") + std::to_string(plan.cluster) + " x " +
         std::to_string(plan.team) + ", weights " + std::to_string(plan.weights) + weights;
}

}  // namespace

std::vector<LayerNormPlan> layer_norm_plans(const Tensor& x, const Tensor& weight, const Tensor& bias, float eps,
                                            const Tensor& y, const Tensor& stats) {
  const Call call = {cuda::forward_call("layer_norm", {&x, &y}, {&weight, &bias}), x, weight, bias, y, stats, eps};
  std::vector<LayerNormPlan> plans;
  const std::int64_t length = cuda::accesses_of<T>(call.rows);
  const cuda::RowPlan one = cuda::plan_rows(call.rows.rows, length, cuda::kOneInput, cuda::info(call.rows.device));
  if (one.span == cuda::Span::cluster) {
    plans.push_back({name_of(one, " late, any threads"), [=] { launch<OneRow>(call, one); }});
  }
  for (const Entry& entry : All::entries) {
    const cuda::RowPlan plan = cuda::plan_cluster(length, kHeld, entry.rows);
    if (plan.packs == 0) continue;
    plans.push_back({name_of(plan, entry.rows.early ? " early" : " late"), [=] { entry.launch(call, plan); }});
  }
  return plans;
}

}  // namespace wick::bench
