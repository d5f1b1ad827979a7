#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "backend/cuda/cudnn.h"

namespace wick::cuda {

/// A compiled operation graph.
class GraphPlan {
 public:
  std::int64_t workspace_bytes() const { return workspace_bytes_; }

  /// Where a tensor of the graph lies: device memory.
  struct Binding {
    std::int64_t uid;
    void* data;
  };
  /// Queues the graph on `stream`. Throws CudnnRefusal.
  void run(CudnnDevice& device, cudaStream_t stream, std::span<const Binding> bindings, void* workspace) const;

 private:
  friend class Graph;
  struct Constant {
    std::int64_t uid;
    std::variant<float, std::int32_t> value;
  };
  explicit GraphPlan(Descriptor plan) : plan_(std::move(plan)) {}

  Descriptor plan_;
  std::vector<Constant> constants_;
  std::int64_t workspace_bytes_ = 0;
};

/// A tensor of a graph, by cuDNN's unique id; 0: none.
struct GraphTensor {
  std::int64_t uid = 0;
};

/// Operations of cuDNN over four-dimensional tensors, gathered to be compiled into one plan. Every call that cuDNN
/// refuses throws CudnnRefusal.
class Graph {
 public:
  using Extents = std::array<std::int64_t, 4>;
  using Tensor = GraphTensor;
  enum class Storage { memory, computed };  ///< in memory; or only ever inside a kernel

  static Extents contiguous(const Extents& dims);

  /// `ragged`: element offsets of each batch entry's first element, [batch + 1, 1, 1, 1]; the batch stride is unused.
  Tensor tensor(const Extents& dims, const Extents& strides, cudnnDataType_t type, Storage storage = Storage::memory,
                const Tensor& ragged = {});
  Tensor computed(const Extents& dims, cudnnDataType_t type) {
    return tensor(dims, contiguous(dims), type, Storage::computed);
  }
  Tensor constant(float value);
  Tensor constant(std::int32_t value);

  /// y = mode(x, b), or b where `choose` is false (select). GEN_INDEX gives positions along `axis`.
  void pointwise(cudnnPointwiseMode_t mode, cudnnDataType_t compute, const Tensor& y, const Tensor& x,
                 const Tensor& b = {}, const Tensor& choose = {}, std::int64_t axis = -1);
  /// How much of each batch entry's matrices is there, from i32 [batch, 1, 1, 1]; uid 0: all.
  struct Lengths {
    Tensor m = {};
    Tensor n = {};
    Tensor k = {};
  };
  /// c = a b in float32.
  void matmul(const Tensor& c, const Tensor& a, const Tensor& b, const Lengths& lengths);
  void reduce(cudnnReduceTensorOp_t mode, const Tensor& y, const Tensor& x);
  /// y is x's memory with y's dimensions and strides.
  void reshape(const Tensor& y, const Tensor& x);

  /// The first plan that cuDNN's heuristics propose and can build; of those that promise a fixed order of additions,
  /// where `deterministic`. Throws CudnnRefusal with the first reason when there is none.
  GraphPlan build(const CudnnDevice& device, bool deterministic) const;

 private:
  const Descriptor& at(const Tensor& tensor) const { return tensors_[static_cast<std::size_t>(tensor.uid - 1)]; }
  Descriptor make(const Extents& dims, const Extents& strides, cudnnDataType_t type) const;
  Tensor add(Descriptor made);

  std::vector<Descriptor> tensors_;  // a tensor's uid is its place, counted from 1
  std::vector<Descriptor> settings_;
  std::vector<Descriptor> operations_;
  std::vector<GraphPlan::Constant> constants_;
};

}  // namespace wick::cuda
