#pragma once

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>

#include "backend/cuda/cudnn_graph.h"
#include "wick/dtype.h"

namespace wick::cuda {

/// Where an operand's rows and heads lie, in elements: row t of head h starts at t * row + h * head. The elements of a
/// head are dense. Multiples of 8; so q, k and v may be columns of one matrix, and their gradients too.
struct HeadStrides {
  std::int64_t row = 0;
  std::int64_t head = 0;

  auto operator<=>(const HeadStrides&) const = default;
};

/// One attention problem as cuDNN is asked to solve it: sequences of as many keys as queries, q and y [rows, heads, d],
/// k and v [rows, kv_heads, d]. The plan depends on nothing else, so one plan serves every batch of a shape.
struct AttentionShape {
  /// Dense: `sequences` sequences of exactly `longest` tokens, end to end. Packed: room for `sequences` sequences,
  /// whose lengths and places are read on the device from a PackedIndex.
  bool packed = false;
  std::int64_t sequences = 0;
  std::int64_t longest = 0;  ///< tokens of the longest sequence, at most
  std::int64_t rows = 0;     ///< tokens of all sequences together

  std::int64_t heads = 0;
  std::int64_t kv_heads = 0;
  std::int64_t head_dim = 0;
  DType dtype = DType::bf16;  ///< bf16 or f16
  float scale = 0;
  bool causal = false;
  std::int64_t window = 0;  ///< with causal: keys that a query sees, its own among them; 0: all

  HeadStrides q, k, v, y;
  HeadStrides dy, dq, dk, dv;  ///< of the backward pass

  auto operator<=>(const AttentionShape&) const = default;
};

/// What a packed batch must have on the device: one buffer that says where each sequence starts and how long it is.
/// Rows of i64, each `row_elements` long: row r holds offsets[i] * multipliers[r] for i = 0..sequences, in elements.
/// Then, from `lengths_at` bytes on, the sequences' lengths in i32. Where there are fewer sequences than room, the last
/// offset repeats and the lengths are 0.
struct PackedIndex {
  explicit PackedIndex(const AttentionShape& shape);
  std::size_t row_of(std::int64_t multiplier) const;

  static constexpr std::size_t kMaxRows = 9;
  std::array<std::int64_t, kMaxRows> multipliers = {};  ///< the first `rows` of them
  std::size_t rows = 0;
  std::int64_t row_elements;  ///< sequences + 1, made even
  std::size_t lengths_at;
  std::size_t bytes;
};

/// Why cuDNN of this version (major * 10000 + minor * 100 + patch) is not asked for a shape on a device of this compute
/// capability (major * 10 + minor); null where it is. `backward`: nor for its gradients.
const char* attention_refusal(const AttentionShape& shape, bool backward, int capability, std::size_t version);

/// A plan for one shape and direction, or why there is none.
class AttentionPlan {
 public:
  /// Null when it runs; else cuDNN's reason or ours, valid as long as the plan.
  const char* declined() const { return plan_ ? nullptr : reason_.c_str(); }
  /// Device memory that a run needs for itself, aligned to 256; its contents are of no interest before and after.
  std::size_t workspace_bytes() const { return workspace_bytes_; }

 private:
  friend class CudnnAttention;
  friend struct AttentionGraph;

  enum Operand { kQ, kK, kV, kY, kLse, kDy, kDq, kDk, kDv, kOperands };
  std::optional<GraphPlan> plan_;
  std::string reason_;
  std::size_t workspace_bytes_ = 0;
  std::int64_t uids_[kOperands] = {};  // 0: not part of the graph
  struct Inside {                      // tensors in the workspace or, for index rows, in the packed index
    std::int64_t uid;
    std::size_t offset;
  };
  std::vector<Inside> scratch_;
  std::vector<Inside> index_;
  std::array<std::int64_t, 2> lengths_uids_ = {};  // of queries and keys; 0: dense
  std::size_t lengths_at_ = 0;
};

/// Pointers of a forward run: aligned to 16 bytes.
struct AttentionForwardOperands {
  const void* q;
  const void* k;
  const void* v;
  void* y;
  /// f32 [heads, rows]: log(sum(exp(scale * q·k))) of the keys a query sees, natural logarithm.
  float* lse;
  const void* index = nullptr;  ///< packed: see PackedIndex
};
struct AttentionBackwardOperands {
  const void* dy;
  const void* q;
  const void* k;
  const void* v;
  const void* y;
  const float* lse;
  void* dq;
  void* dk;
  void* dv;
  const void* index = nullptr;
};

/// cuDNN's fused attention on one device. Plans are made once per shape and kept; any thread may ask. Gradients are
/// added in a fixed order: every run gives the same bytes.
class CudnnAttention {
 public:
  explicit CudnnAttention(CudnnDevice& device) : device_(device) {}

  /// Never throws for what cuDNN does not do: the plan says why.
  const AttentionPlan& forward_plan(const AttentionShape& shape);
  const AttentionPlan& backward_plan(const AttentionShape& shape);

  /// Queues a run on `stream`. Error(device) when cuDNN fails, Error(invalid_argument) for a misaligned pointer.
  void forward(const AttentionPlan& plan, cudaStream_t stream, const AttentionForwardOperands& at, void* workspace);
  void backward(const AttentionPlan& plan, cudaStream_t stream, const AttentionBackwardOperands& at, void* workspace);

 private:
  enum class Pass { forward, backward };
  using Key = std::pair<Pass, AttentionShape>;
  const AttentionPlan& plan(Pass pass, const AttentionShape& shape);
  void run(const AttentionPlan& plan, cudaStream_t stream, std::span<void* const> operands, const void* index,
           void* workspace);

  CudnnDevice& device_;
  std::mutex mutex_;
  std::map<Key, std::unique_ptr<AttentionPlan>> plans_;
};

}  // namespace wick::cuda
