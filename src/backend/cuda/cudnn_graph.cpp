#include "backend/cuda/cudnn_graph.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

namespace wick::cuda {
namespace {

constexpr std::int64_t kAlignment = 16;  // bytes, of every tensor

// What a plan is: "engine 4 (knob 7 = 1, ...), notes".
struct EngineNotes {
  std::string text;
  bool nondeterministic = false;
};

EngineNotes describe(const Descriptor& config) {
  // The configuration owns its engine; this descriptor is filled with a reference to it.
  Descriptor engine(CUDNN_BACKEND_ENGINE_DESCRIPTOR, "engine");
  cudnnBackendDescriptor_t engine_handle = engine.handle();
  config.get(CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &engine_handle);
  std::int64_t index = -1;
  engine.get(CUDNN_ATTR_ENGINE_GLOBAL_INDEX, CUDNN_TYPE_INT64, 1, &index);

  EngineNotes notes{.text = fmt::format("engine {}", index)};
  std::vector<Descriptor> choices;
  std::vector<cudnnBackendDescriptor_t> handles;
  for (int i = 0; i < CUDNN_KNOB_TYPE_COUNTS; ++i) {
    handles.push_back(choices.emplace_back(CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR, "knob choice").handle());
  }
  const std::int64_t knobs = config.get(CUDNN_ATTR_ENGINECFG_KNOB_CHOICES, CUDNN_TYPE_BACKEND_DESCRIPTOR,
                                        static_cast<std::int64_t>(handles.size()), handles.data());
  for (std::int64_t i = 0; i < knobs; ++i) {
    cudnnBackendKnobType_t type{};
    std::int64_t value = 0;
    const Descriptor& choice = choices[static_cast<std::size_t>(i)];
    choice.get(CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE, CUDNN_TYPE_KNOB_TYPE, 1, &type);
    choice.get(CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE, CUDNN_TYPE_INT64, 1, &value);
    notes.text += fmt::format(" k{}={}", static_cast<int>(type), value);
  }

  std::array<cudnnBackendNumericalNote_t, 32> numerical{};
  const std::int64_t count = engine.get(CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, CUDNN_TYPE_NUMERICAL_NOTE,
                                        static_cast<std::int64_t>(numerical.size()), numerical.data());
  for (std::int64_t i = 0; i < std::min<std::int64_t>(count, static_cast<std::int64_t>(numerical.size())); ++i) {
    if (numerical[static_cast<std::size_t>(i)] == CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC) notes.nondeterministic = true;
  }
  if (notes.nondeterministic) notes.text += " nondeterministic";
  return notes;
}

// The configurations that cuDNN proposes, best first; empty when this mode knows none.
std::vector<Descriptor> proposals(const Descriptor& graph, cudnnBackendHeurMode_t mode) {
  Descriptor heuristic(CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR, "heuristic");
  heuristic.set(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph);
  heuristic.set(CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode);
  heuristic.finalize();
  const std::int64_t count = heuristic.get(CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR, 0, nullptr);
  std::vector<Descriptor> configs;
  std::vector<cudnnBackendDescriptor_t> handles;
  for (std::int64_t i = 0; i < count; ++i) {
    handles.push_back(configs.emplace_back(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, "engine configuration").handle());
  }
  if (count == 0) return configs;
  const std::int64_t got =
      heuristic.get(CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR, count, handles.data());
  while (static_cast<std::int64_t>(configs.size()) > got) configs.pop_back();
  return configs;
}

}  // namespace

void GraphPlan::run(CudnnDevice& device, cudaStream_t stream, std::span<const Binding> bindings,
                    void* workspace) const {
  std::vector<std::int64_t> uids;
  std::vector<const void*> data;
  for (const Binding& binding : bindings) {
    uids.push_back(binding.uid);
    data.push_back(binding.data);
  }
  for (const Constant& constant : constants_) {
    uids.push_back(constant.uid);
    std::visit([&](const auto& value) { data.push_back(&value); }, constant.value);
  }
  Descriptor pack(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, "variant pack");
  pack.set(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, uids);
  pack.set(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, static_cast<std::int64_t>(data.size()),
           data.data());
  pack.set(CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &workspace);
  pack.finalize();
  device.execute(plan_, pack, stream);
}

Graph::Extents Graph::contiguous(const Extents& dims) {
  return {dims[1] * dims[2] * dims[3], dims[2] * dims[3], dims[3], 1};
}

Descriptor Graph::make(const Extents& dims, const Extents& strides, cudnnDataType_t type) const {
  const auto uid = static_cast<std::int64_t>(tensors_.size()) + 1;
  Descriptor made(CUDNN_BACKEND_TENSOR_DESCRIPTOR,
                  fmt::format("tensor {} [{}, {}, {}, {}]", uid, dims[0], dims[1], dims[2], dims[3]));
  made.set(CUDNN_ATTR_TENSOR_DATA_TYPE, type);
  made.set(CUDNN_ATTR_TENSOR_DIMENSIONS, dims);
  made.set(CUDNN_ATTR_TENSOR_STRIDES, strides);
  made.set(CUDNN_ATTR_TENSOR_UNIQUE_ID, uid);
  made.set(CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, kAlignment);
  return made;
}

Graph::Tensor Graph::add(Descriptor made) {
  made.finalize();
  tensors_.push_back(std::move(made));
  return {.uid = static_cast<std::int64_t>(tensors_.size())};
}

Graph::Tensor Graph::tensor(const Extents& dims, const Extents& strides, cudnnDataType_t type, Storage storage,
                            const Tensor& ragged) {
  Descriptor made = make(dims, strides, type);
  if (storage == Storage::computed) made.set(CUDNN_ATTR_TENSOR_IS_VIRTUAL, true);
  if (ragged.uid != 0) made.set(CUDNN_ATTR_TENSOR_RAGGED_OFFSET_DESC, at(ragged));
  return add(std::move(made));
}

Graph::Tensor Graph::constant(float value) {
  constexpr Extents one{1, 1, 1, 1};
  Descriptor made = make(one, one, CUDNN_DATA_FLOAT);
  made.set(CUDNN_ATTR_TENSOR_IS_BY_VALUE, true);
  const Tensor result = add(std::move(made));
  constants_.push_back({.uid = result.uid, .value = value});
  return result;
}

Graph::Tensor Graph::constant(std::int32_t value) {
  constexpr Extents one{1, 1, 1, 1};
  Descriptor made = make(one, one, CUDNN_DATA_INT32);
  made.set(CUDNN_ATTR_TENSOR_IS_BY_VALUE, true);
  const Tensor result = add(std::move(made));
  constants_.push_back({.uid = result.uid, .value = value});
  return result;
}

void Graph::pointwise(cudnnPointwiseMode_t mode, cudnnDataType_t compute, const Tensor& y, const Tensor& x,
                      const Tensor& b, const Tensor& choose, std::int64_t axis) {
  const std::string what = fmt::format("pointwise operation {} (mode {})", operations_.size(), static_cast<int>(mode));
  Descriptor setting(CUDNN_BACKEND_POINTWISE_DESCRIPTOR, what);
  setting.set(CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &mode);
  setting.set(CUDNN_ATTR_POINTWISE_MATH_PREC, compute);
  if (axis >= 0) setting.set(CUDNN_ATTR_POINTWISE_AXIS, axis);
  setting.finalize();
  Descriptor operation(CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR, what);
  operation.set(CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, setting);
  operation.set(CUDNN_ATTR_OPERATION_POINTWISE_XDESC, at(x));
  operation.set(CUDNN_ATTR_OPERATION_POINTWISE_YDESC, at(y));
  if (b.uid != 0) operation.set(CUDNN_ATTR_OPERATION_POINTWISE_BDESC, at(b));
  if (choose.uid != 0) operation.set(CUDNN_ATTR_OPERATION_POINTWISE_TDESC, at(choose));
  operation.finalize();
  settings_.push_back(std::move(setting));
  operations_.push_back(std::move(operation));
}

void Graph::matmul(const Tensor& c, const Tensor& a, const Tensor& b, const Lengths& lengths) {
  const std::string what = fmt::format("matmul operation {}", operations_.size());
  Descriptor setting(CUDNN_BACKEND_MATMUL_DESCRIPTOR, what);
  setting.set(CUDNN_ATTR_MATMUL_COMP_TYPE, CUDNN_DATA_FLOAT);
  setting.finalize();
  Descriptor operation(CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR, what);
  operation.set(CUDNN_ATTR_OPERATION_MATMUL_ADESC, at(a));
  operation.set(CUDNN_ATTR_OPERATION_MATMUL_BDESC, at(b));
  operation.set(CUDNN_ATTR_OPERATION_MATMUL_CDESC, at(c));
  operation.set(CUDNN_ATTR_OPERATION_MATMUL_DESC, setting);
  if (lengths.m.uid != 0) operation.set(CUDNN_ATTR_OPERATION_MATMUL_GEMM_M_OVERRIDE_DESC, at(lengths.m));
  if (lengths.n.uid != 0) operation.set(CUDNN_ATTR_OPERATION_MATMUL_GEMM_N_OVERRIDE_DESC, at(lengths.n));
  if (lengths.k.uid != 0) operation.set(CUDNN_ATTR_OPERATION_MATMUL_GEMM_K_OVERRIDE_DESC, at(lengths.k));
  operation.finalize();
  settings_.push_back(std::move(setting));
  operations_.push_back(std::move(operation));
}

void Graph::reduce(cudnnReduceTensorOp_t mode, const Tensor& y, const Tensor& x) {
  const std::string what = fmt::format("reduction operation {}", operations_.size());
  Descriptor setting(CUDNN_BACKEND_REDUCTION_DESCRIPTOR, what);
  setting.set(CUDNN_ATTR_REDUCTION_OPERATOR, CUDNN_TYPE_REDUCTION_OPERATOR_TYPE, 1, &mode);
  setting.set(CUDNN_ATTR_REDUCTION_COMP_TYPE, CUDNN_DATA_FLOAT);
  setting.finalize();
  Descriptor operation(CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR, what);
  operation.set(CUDNN_ATTR_OPERATION_REDUCTION_DESC, setting);
  operation.set(CUDNN_ATTR_OPERATION_REDUCTION_XDESC, at(x));
  operation.set(CUDNN_ATTR_OPERATION_REDUCTION_YDESC, at(y));
  operation.finalize();
  settings_.push_back(std::move(setting));
  operations_.push_back(std::move(operation));
}

void Graph::reshape(const Tensor& y, const Tensor& x) {
  Descriptor operation(CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR,
                       fmt::format("reshape operation {}", operations_.size()));
  operation.set(CUDNN_ATTR_OPERATION_RESHAPE_XDESC, at(x));
  operation.set(CUDNN_ATTR_OPERATION_RESHAPE_YDESC, at(y));
  operation.finalize();
  operations_.push_back(std::move(operation));
}

GraphPlan Graph::build(const CudnnDevice& device, bool deterministic) const {
  Descriptor graph(CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR, "operation graph");
  graph.set(CUDNN_ATTR_OPERATIONGRAPH_OPS, operations_);
  device.bind_graph(graph);
  graph.finalize();

  std::optional<std::string> refused;
  for (const cudnnBackendHeurMode_t mode : {CUDNN_HEUR_MODE_A, CUDNN_HEUR_MODE_FALLBACK}) {
    try {
      for (const Descriptor& config : proposals(graph, mode)) {
        const EngineNotes notes = describe(config);
        if (deterministic && notes.nondeterministic) {
          if (!refused) refused = "cuDNN has no deterministic plan (" + notes.text + ")";
          continue;
        }
        try {
          Descriptor made(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR, "plan of " + notes.text);
          made.set(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, config);
          device.bind_plan(made);
          made.finalize();
          GraphPlan plan(std::move(made));
          plan.plan_.get(CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1, &plan.workspace_bytes_);
          plan.constants_ = constants_;
          return plan;
        } catch (const CudnnRefusal& refusal) {
          if (!refused) refused = refusal.what();
        }
      }
    } catch (const CudnnRefusal& refusal) {
      if (!refused) refused = refusal.what();
    }
  }
  throw CudnnRefusal(refused.value_or("cuDNN proposes no engine for this graph"));
}

}  // namespace wick::cuda
