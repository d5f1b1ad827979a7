// Attention by cuDNN's fused kernels: for training in bf16 and f16, where the host knows how long sequences are. A plan
// takes a moment to make, so prompts, whose lengths all differ, go to our own kernel.

#include <algorithm>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "backend/cuda/cudnn_attention.h"
#include "backend/cuda/runtime.h"
#include "ops/attention/attention_cuda.h"
#include "wick/tensor.h"

namespace wick::cuda {
namespace {

// cuDNN on one device.
struct Library {
  std::unique_ptr<CudnnDevice> device;
  std::unique_ptr<CudnnAttention> attention;
  std::string refusal;  // why there is neither
};

// Never destroyed: when the program ends the driver may have ended before, or have failed.
Library& library(Device device) {
  static std::mutex mutex;
  static auto& known = *new std::map<int, Library>;
  const std::scoped_lock lock(mutex);
  if (const auto at = known.find(device.index); at != known.end()) return at->second;
  Library found;
  if (cudnn_absent() != nullptr) {
    found.refusal = cudnn_absent();
  } else {
    try {
      (void)stream(device.index);  // makes the device current
      found.device = std::make_unique<CudnnDevice>();
      found.attention = std::make_unique<CudnnAttention>(*found.device);
    } catch (const CudnnRefusal& refused) {
      found.refusal = refused.what();
    }
  }
  return known.emplace(device.index, std::move(found)).first->second;
}

HeadStrides strides_of(const Tensor& t) { return {t.stride(0), t.stride(1)}; }

AttentionShape shape_of(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& y,
                        const AttentionLayout& layout) {
  AttentionShape s;
  s.sequences = layout.query_offsets.numel() - 1;
  s.longest = layout.longest;
  s.rows = q.size(0);
  // cuDNN up to 9.15 reads past the end of dense sequences of other lengths.
  s.packed = s.sequences * s.longest != s.rows || s.longest % 128 != 0;
  s.heads = q.size(1);
  s.kv_heads = k.size(1);
  s.head_dim = q.size(2);
  s.dtype = q.dtype();
  s.scale = layout.scale;
  s.causal = layout.causal;
  s.window = layout.causal && layout.window < s.longest ? layout.window : 0;  // a window of all keys hides none
  s.q = strides_of(q);
  s.k = strides_of(k);
  s.v = strides_of(v);
  s.y = strides_of(y);
  return s;
}

// Why cuDNN is not asked, from what can be seen without it.
Declined declined(const Tensor& q, const AttentionLayout& layout, std::initializer_list<const Tensor*> operands) {
  if (q.dtype() != DType::bf16 && q.dtype() != DType::f16) return "cuDNN's fused attention is for bf16 and f16";
  if (layout.bias.defined()) return "a bias by distance";
  if (layout.longest == 0) return "the lengths of the sequences are not known to the host";
  for (const Tensor* t : operands) {
    if (reinterpret_cast<std::uintptr_t>(t->raw()) % 16 != 0) return "operands that do not start on 16 bytes";
  }
  const Library& lib = library(q.device());
  return lib.attention == nullptr ? lib.refusal.c_str() : nullptr;
}

Tensor device_bytes(std::size_t bytes, Device device) {
  return Tensor::empty({static_cast<std::int64_t>((bytes + 3) / 4)}, DType::i32, device);
}

// Undefined for dense sequences.
Tensor packed_index(const AttentionShape& s, const AttentionLayout& layout) {
  if (!s.packed) return {};
  const PackedIndex index(s);
  const Tensor made = device_bytes(index.bytes, layout.query_offsets.device());
  PackedIndexRows rows;
  std::copy(index.multipliers.begin(), index.multipliers.end(), rows.multipliers);
  rows.rows = static_cast<int>(index.rows);
  rows.row_elements = static_cast<int>(index.row_elements);
  fill_packed_index(layout.query_offsets, s.rows, s.longest, rows, made);
  return made;
}

// Of `products` matrix products over the scores of equally long sequences, for the profile.
double operations(const AttentionShape& s, int products) {
  const auto keys = static_cast<double>(s.longest);
  const double seen = !s.causal ? keys : s.window > 0 ? static_cast<double>(s.window) : (keys + 1) / 2;
  return 2.0 * products * static_cast<double>(s.rows * s.heads * s.head_dim) * seen;
}

void* at_head(const Tensor& t, std::int64_t head) {
  return t.raw() + static_cast<std::size_t>(head * t.stride(1)) * size_of(t.dtype());
}

}  // namespace

Declined attention_forward_cudnn(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionLayout& layout,
                                 const Tensor& y, const Tensor& lse) {
  if (!lse.defined()) return "it is not worth a plan where nothing is trained";
  if (const Declined reason = declined(q, layout, {&q, &k, &v, &y})) return reason;
  const AttentionShape shape = shape_of(q, k, v, y, layout);
  CudnnAttention& lib = *library(q.device()).attention;
  const AttentionPlan& plan = lib.forward_plan(shape);
  if (plan.declined() != nullptr) return plan.declined();
  const Tensor index = packed_index(shape, layout);
  const Tensor workspace = device_bytes(plan.workspace_bytes(), q.device());
  const WorkScope scope({"attention, cuDNN", 0, operations(shape, 2)});
  lib.forward(plan, stream(q.device().index),
              {.q = q.raw(),
               .k = k.raw(),
               .v = v.raw(),
               .y = y.raw(),
               .lse = lse.data<float>(),
               .index = index.defined() ? index.raw() : nullptr},
              workspace.raw());
  return nullptr;
}

Declined attention_backward_cudnn(const Tensor& dy, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& y,
                                  const Tensor& lse, const AttentionLayout& layout, const Tensor& dq, const Tensor& dk,
                                  const Tensor& dv) {
  if (!dq.defined() || !dk.defined() || !dv.defined()) return "cuDNN makes all three gradients or none";
  if (const Declined reason = declined(q, layout, {&dy, &q, &k, &v, &y, &dq, &dk, &dv})) return reason;
  AttentionShape shape = shape_of(q, k, v, y, layout);
  const std::int64_t at_once =
      kept_scores(shape.heads, shape.kv_heads, shape.sequences * shape.longest, shape.longest).key_heads;
  if (at_once == 0) return "scores that are too many to keep";
  // In a packed batch the workspace grows with the distance of dk's and dv's rows: they are made dense.
  const bool beside = shape.packed && shape.heads != shape.kv_heads && !dk.is_contiguous();
  const auto dense = [&](const Tensor& t) { return beside ? Tensor::empty(t.shape(), t.dtype(), t.device()) : t; };
  const Tensor dense_dk = dense(dk);
  const Tensor dense_dv = dense(dv);
  shape.dy = strides_of(dy);
  shape.dq = strides_of(dq);
  shape.dk = strides_of(dense_dk);
  shape.dv = strides_of(dense_dv);
  const std::int64_t group = shape.heads / shape.kv_heads;
  shape.heads = group * at_once;
  shape.kv_heads = at_once;
  CudnnAttention& lib = *library(q.device()).attention;
  const AttentionPlan& plan = lib.backward_plan(shape);
  if (plan.declined() != nullptr) return plan.declined();
  const Tensor index = packed_index(shape, layout);
  const Tensor workspace = device_bytes(plan.workspace_bytes(), q.device());
  for (std::int64_t first = 0; first < k.size(1); first += at_once) {
    const std::int64_t head = first * group;
    const WorkScope scope({"attention backward, cuDNN", 0, operations(shape, 5)});
    lib.backward(plan, stream(q.device().index),
                 {.dy = at_head(dy, head),
                  .q = at_head(q, head),
                  .k = at_head(k, first),
                  .v = at_head(v, first),
                  .y = at_head(y, head),
                  .lse = lse.data<float>() + head * shape.rows,
                  .dq = at_head(dq, head),
                  .dk = at_head(dense_dk, first),
                  .dv = at_head(dense_dv, first),
                  .index = index.defined() ? index.raw() : nullptr},
                 workspace.raw());
  }
  if (beside) {
    dk.copy_from(dense_dk);
    dv.copy_from(dense_dv);
  }
  return nullptr;
}

}  // namespace wick::cuda
