#pragma once

#include <functional>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "backend/backend.h"
#include "core/fail.h"
#include "core/work.h"
#include "ops/kernel_table.h"
#include "wick/ops.h"

namespace wick {

/// Reports, once per op, device and reason, that `op` fell back to its composite.
void report_fallback(const char* op, Device device, const char* reason);

/// Runs the kernel for `device` unless there is none, it declines, or fused kernels are off. True if it ran.
template <class Signature, class... Args>
bool run_kernel(const char* op, Kernels<Signature>& kernels, Device device, Args&&... args) {
  if (!fused_enabled()) return false;
  Signature* kernel = kernels.on(device.type);
  std::optional<WorkScope> scope;  // an accelerator's launches have their own
  if (kernel != nullptr) {
    if (device.type == DeviceType::cpu) {
      scope.emplace(Work{op});
    } else {
      backend(device).use(device);
    }
  }
  const Declined reason = kernel == nullptr ? "it has no kernel for this device" : kernel(std::forward<Args>(args)...);
  if (reason == nullptr) return true;
  report_fallback(op, device, reason);
  return false;
}

/// Names a copy in the profile of the CPU; an accelerator's copies have scopes of their own.
class CopyScope {
 public:
  explicit CopyScope(Device device) {
    if (device.type == DeviceType::cpu) scope_.emplace(Work{"copy"});
  }

 private:
  std::optional<WorkScope> scope_;
};

/// The gradients of a composite at `inputs`, by recomputing it under a tape of its own: the backward of an op whose
/// backward kernel is missing or declines.
std::vector<Tensor> composite_gradients(const std::function<std::vector<Tensor>(std::span<const Tensor>)>& composite,
                                        std::span<const Tensor> inputs, std::span<const Tensor> grad_outputs,
                                        const std::vector<bool>& needs);

// Argument checks shared by ops; `what` names the argument in messages.
void check_floating(const char* op, const char* what, const Tensor& t);
void check_same_dtype(const char* op, const Tensor& a, const char* what, const Tensor& b);
void check_same_device(const char* op, const Tensor& a, const char* what, const Tensor& b);
void check_same_shape(const char* op, const char* what_a, const Tensor& a, const char* what_b, const Tensor& b);
/// `weight` is a vector as long as x's last dimension, of x's dtype and device.
void check_row_vector(const char* op, const Tensor& x, const char* what, const Tensor& weight);
/// i32 or i64, one dimension; returned as a contiguous i32 tensor whose values lie in [0, limit). On a device the
/// values are not looked at, since that would wait for it: kernels keep out of what lies outside.
Tensor checked_indices(const char* op, const char* what, const Tensor& indices, std::int64_t limit);

/// Where packed sequences begin, and the number of tokens: checked_indices() that run from 0 to `tokens` and do not
/// decrease. On a device too, kernels stay inside whatever the values.
Tensor checked_offsets(const char* op, const char* what, const Tensor& offsets, std::int64_t tokens);

/// The product of all dimensions but the last.
std::int64_t row_count(const Tensor& x);

/// x as a [rows, last] matrix with one stride between rows, at least their length, and dense columns: a view where one
/// exists, else a copy.
Tensor as_rows(const Tensor& x);
/// The same for kernels that also take heads: where there is no such view of x [tokens, heads, d], but its columns are
/// dense, x itself, whatever its other strides. Its row r is head r % heads of token r / heads.
Tensor as_rows_or_heads(const Tensor& x);

/// A tensor that a kernel writes as such a matrix: in place where a view exists, else by way of dense memory.
class OutputRows {
 public:
  enum class Form { matrix, matrix_or_heads };
  explicit OutputRows(const Tensor& to, Form form = Form::matrix);  ///< undefined: so are its rows
  const Tensor& rows() const noexcept { return rows_; }
  const Tensor& finished() const;  ///< the tensor, once the rows are written

 private:
  Tensor to_;
  Tensor rows_;
};

}  // namespace wick
