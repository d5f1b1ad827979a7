#pragma once

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

/// One attention problem as cuDNN is asked to solve it. q and y are [query rows, heads, d], k and v [key rows,
/// kv_heads, d]. The plan depends on nothing else, so one plan serves every batch of a shape.
struct AttentionShape {
  /// Dense: `sequences` sequences of exactly max_query queries and max_keys keys, end to end.
  /// Packed: room for `sequences` sequences, whose lengths and places are read on the device from a PackedIndex.
  bool packed = false;
  std::int64_t sequences = 0;
  std::int64_t max_query = 0;   ///< queries of the longest sequence
  std::int64_t max_keys = 0;    ///< keys of the longest sequence
  std::int64_t query_rows = 0;  ///< packed: of all sequences together, at most
  std::int64_t key_rows = 0;    ///< packed: likewise

  std::int64_t heads = 0;
  std::int64_t kv_heads = 0;
  std::int64_t head_dim = 0;
  DType dtype = DType::bf16;  ///< bf16 or f16
  float scale = 0;
  bool causal = false;        ///< the last query of a sequence stands at its last key
  std::int64_t window = 0;    ///< with causal: keys that a query sees, its own among them; 0: all
  bool as_many_keys = true;   ///< every sequence has as many keys as queries
  bool deterministic = true;  ///< the backward pass gives the same bytes on every run

  HeadStrides q, k, v, y;
  HeadStrides dy, dq, dk, dv;  ///< of the backward pass

  auto operator<=>(const AttentionShape&) const = default;
};

/// What a packed batch must have on the device: one buffer that says where each sequence starts and how long it is.
/// Rows of i64, each `row_elements` long: row r holds offsets[i] * multiplier[r] for i = 0..sequences, where offsets
/// are the query's or the keys' cumulative lengths in rows. Then, from `lengths_at` bytes on, two rows of i32, each
/// `length_elements` long: the sequences' query lengths and key lengths. Where there are fewer sequences than room, the
/// last offset repeats and the lengths are 0.
struct PackedIndex {
  static constexpr std::size_t kRows = 11;
  struct Row {
    bool keys;  ///< of key_offsets rather than query_offsets
    std::int64_t multiplier;
  };
  explicit PackedIndex(const AttentionShape& shape, bool token_major_lse = false);

  Row rows[kRows];
  std::int64_t sequences;
  std::int64_t row_elements;     ///< sequences + 1, made even
  std::int64_t length_elements;  ///< sequences, made a multiple of 4
  std::size_t lengths_at;
  std::size_t bytes;

  /// Writes it to host memory from `count` + 1 offsets each, count <= sequences.
  void fill(const std::int32_t* query_offsets, const std::int32_t* key_offsets, std::int64_t count, void* out) const;
};

/// A plan for one shape and direction, or why there is none.
class AttentionPlan {
 public:
  /// Null when it runs; else cuDNN's reason or ours, valid as long as the plan.
  const char* declined() const { return plan_ ? nullptr : reason_.c_str(); }
  /// Device memory that a run needs for itself, aligned to 256; its contents are of no interest before and after.
  std::size_t workspace_bytes() const { return workspace_bytes_; }
  /// For a person: cuDNN's engine and its knobs.
  const std::string& engine() const { return plan_ ? plan_->engine() : reason_; }

 private:
  friend class CudnnAttention;
  friend struct AttentionGraph;

  enum Operand { kQ, kK, kV, kY, kLse, kDy, kDq, kDk, kDv, kQueryLengths, kKeyLengths, kOperands };
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
  std::size_t query_lengths_at_ = 0;
  std::size_t key_lengths_at_ = 0;
};

/// Pointers of a forward run: aligned to 16 bytes.
struct AttentionForwardOperands {
  const void* q;
  const void* k;
  const void* v;
  void* y;
  /// f32, log(sum(exp(scale * q·k))) of the keys a query sees, natural logarithm. Packed: [heads, query_rows]. Dense:
  /// [sequences, heads, max_query].
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

/// Layouts to be compared on a device; to be settled.
struct AttentionTuning {
  enum class Lse { head_major, token_major, padded } lse = Lse::head_major;
  enum class Inner { shared, compact, padded } full_heads = Inner::compact, accumulator = Inner::compact;
};

/// cuDNN's fused attention on one device. Plans are made once per shape and kept; any thread may ask.
class CudnnAttention {
 public:
  explicit CudnnAttention(CudnnDevice& device, AttentionTuning tuning = {}) : device_(device), tuning_(tuning) {}

  /// With `lse` or without. Never throws for what cuDNN does not do: the plan says why.
  const AttentionPlan& forward_plan(const AttentionShape& shape, bool lse);
  const AttentionPlan& backward_plan(const AttentionShape& shape);

  /// Queues a run on `stream`. Error(device) when cuDNN fails, Error(invalid_argument) for a misaligned pointer.
  void forward(const AttentionPlan& plan, cudaStream_t stream, const AttentionForwardOperands& at, void* workspace);
  void backward(const AttentionPlan& plan, cudaStream_t stream, const AttentionBackwardOperands& at, void* workspace);

 private:
  enum class Pass { inference, forward, backward };
  using Key = std::pair<Pass, AttentionShape>;
  const AttentionPlan& plan(Pass pass, const AttentionShape& shape);
  void run(const AttentionPlan& plan, cudaStream_t stream, std::span<void* const> operands, const void* index,
           void* workspace);

  CudnnDevice& device_;
  AttentionTuning tuning_;
  std::mutex mutex_;
  std::map<Key, std::unique_ptr<AttentionPlan>> plans_;
};

}  // namespace wick::cuda
