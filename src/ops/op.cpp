#include "ops/op.h"

#include <atomic>
#include <cstdlib>
#include <mutex>
#include <set>
#include <string_view>

#include "core/dispatch.h"

namespace wick {
namespace {

std::atomic<bool>& fused_switch() {
  static std::atomic<bool> enabled = [] {
    const char* value = std::getenv("WICK_FUSED");
    return value == nullptr || std::string_view(value) != "0";
  }();
  return enabled;
}

std::atomic<FallbackListener> fallback_listener{nullptr};

}  // namespace

bool fused_enabled() noexcept { return fused_switch().load(std::memory_order_relaxed); }
void set_fused(bool enabled) noexcept { fused_switch().store(enabled); }
void set_fallback_listener(FallbackListener listener) noexcept { fallback_listener.store(listener); }

void report_fallback(const char* op, Device device, const char* reason) {
  const FallbackListener listener = fallback_listener.load();
  if (listener == nullptr) return;
  static std::mutex mutex;
  static std::set<std::string> said;
  const std::string message = fmt::format("{} runs unfused on {}: {}", op, to_string(device), reason);
  const std::scoped_lock lock(mutex);
  if (said.insert(message).second) listener(message);
}

std::vector<Tensor> composite_gradients(const std::function<std::vector<Tensor>(std::span<const Tensor>)>& composite,
                                        std::span<const Tensor> inputs, std::span<const Tensor> grad_outputs,
                                        const std::vector<bool>& needs) {
  std::vector<Tensor> leaves;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    leaves.push_back(inputs[i].defined() ? inputs[i].detach() : Tensor());
    if (needs[i]) leaves[i].set_slot(std::make_shared<GradSlot>());
  }
  Tape tape;
  const std::vector<Tensor> outputs = composite(leaves);
  tape.backward(outputs, grad_outputs);
  std::vector<Tensor> grads(inputs.size());
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    if (needs[i]) grads[i] = leaves[i].slot()->grad;
  }
  return grads;
}

void check_floating(const char* op, const char* what, const Tensor& t) {
  if (!t.defined() || !is_floating(t.dtype())) {
    fail(ErrorCode::invalid_argument, "[{}] {} must be floating, is {}", op, what, describe(t));
  }
}

void check_same_dtype(const char* op, const Tensor& a, const char* what, const Tensor& b) {
  if (!b.defined() || a.dtype() != b.dtype()) {
    fail(ErrorCode::invalid_argument, "[{}] {} is {}, expected dtype {}", op, what, describe(b), to_string(a.dtype()));
  }
}

void check_same_device(const char* op, const Tensor& a, const char* what, const Tensor& b) {
  if (a.device() != b.device()) {
    fail(ErrorCode::invalid_argument, "[{}] {} is on {}, expected {}", op, what, to_string(b.device()),
         to_string(a.device()));
  }
}

void check_same_shape(const char* op, const char* what_a, const Tensor& a, const char* what_b, const Tensor& b) {
  if (a.shape() != b.shape()) {
    fail(ErrorCode::invalid_argument, "[{}] {} has shape {}, {} has shape {}", op, what_a, to_string(a.shape()), what_b,
         to_string(b.shape()));
  }
}

void check_row_vector(const char* op, const Tensor& x, const char* what, const Tensor& weight) {
  if (x.rank() < 1) fail(ErrorCode::invalid_argument, "[{}] x has no dimensions", op);
  if (!weight.defined() || weight.rank() != 1) {
    fail(ErrorCode::invalid_argument, "[{}] {} must have one dimension, is {}", op, what, describe(weight));
  }
  if (weight.size(0) != x.size(-1)) {
    fail(ErrorCode::invalid_argument, "[{}] {} has {} elements, the last dimension of x has {}", op, what,
         weight.size(0), x.size(-1));
  }
  check_same_dtype(op, x, what, weight);
  check_same_device(op, x, what, weight);
}

Tensor checked_indices(const char* op, const char* what, const Tensor& indices, std::int64_t limit) {
  if (!indices.defined() || is_floating(indices.dtype()) || indices.rank() != 1) {
    fail(ErrorCode::invalid_argument, "[{}] {} must be a vector of i32 or i64, is {}", op, what, describe(indices));
  }
  const Tensor dense = indices.contiguous();
  if (dense.device().type != DeviceType::cpu) return dense.to(DType::i32);
  visit_any(dense.dtype(), [&](auto tag) {
    using T = decltype(tag);
    if constexpr (std::is_integral_v<T>) {
      const T* values = dense.data<T>();
      for (std::int64_t i = 0; i < dense.numel(); ++i) {
        const auto value = static_cast<std::int64_t>(values[i]);
        if (value < 0 || value >= limit) {
          fail(ErrorCode::invalid_argument, "[{}] {}[{}] is {}, expected 0 to {}", op, what, i, value, limit - 1);
        }
      }
    }
  });
  return dense.to(DType::i32);
}

Tensor checked_offsets(const char* op, const char* what, const Tensor& offsets, std::int64_t tokens) {
  const Tensor dense = checked_indices(op, what, offsets, tokens + 1);
  if (dense.numel() < 2) {
    fail(ErrorCode::invalid_argument, "[{}] {} has {} elements, expected 2 or more", op, what, dense.numel());
  }
  if (dense.device().type != DeviceType::cpu) return dense;
  const std::int32_t* at = dense.data<std::int32_t>();
  const std::int64_t last = dense.numel() - 1;
  if (at[0] != 0 || at[last] != tokens) {
    fail(ErrorCode::invalid_argument, "[{}] {} run from {} to {}, expected 0 to {}", op, what, at[0], at[last], tokens);
  }
  for (std::int64_t i = 0; i < last; ++i) {
    if (at[i] > at[i + 1]) {
      fail(ErrorCode::invalid_argument, "[{}] {}[{}] is {}, less than the {} before it", op, what, i + 1, at[i + 1],
           at[i]);
    }
  }
  return dense;
}

std::int64_t row_count(const Tensor& x) {
  std::int64_t rows = 1;
  for (int i = 0; i + 1 < x.rank(); ++i) rows *= x.size(i);
  return rows;
}

namespace {

// As as_rows(); undefined where there is no view.
Tensor view_as_rows(const Tensor& x) {
  if (x.rank() == 0) return x.view({1, 1});
  const std::int64_t columns = x.size(-1);
  const std::int64_t rows = row_count(x);
  if (x.is_contiguous()) return x.view({rows, columns});
  if (x.numel() == 0 || (columns != 1 && x.stride(-1) != 1)) return {};
  std::int64_t row_stride = columns;
  std::int64_t expected = 0;
  bool first = true;
  for (int i = x.rank() - 2; i >= 0; --i) {
    if (x.size(i) == 1) continue;
    if (first) {
      row_stride = x.stride(i);
      first = false;
    } else if (x.stride(i) != expected) {
      return {};
    }
    expected = x.stride(i) * x.size(i);
  }
  if (row_stride < columns) return {};  // rows that overlap (an expanded gradient) are no matrix to a GEMM library
  return x.as_strided({rows, columns}, {row_stride, 1});
}

// As as_rows_or_heads(); undefined where there is no view.
Tensor view_as_rows_or_heads(const Tensor& x) {
  const Tensor rows = view_as_rows(x);
  if (rows.defined() || x.rank() != 3 || (x.size(2) != 1 && x.stride(2) != 1)) return rows;
  return x;
}

Tensor copy_as_rows(const Tensor& x) {
  const CopyScope scope(x.device());
  return x.contiguous().view({row_count(x), x.size(-1)});
}

}  // namespace

Tensor as_rows(const Tensor& x) {
  const Tensor rows = view_as_rows(x);
  return rows.defined() ? rows : copy_as_rows(x);
}

Tensor as_rows_or_heads(const Tensor& x) {
  const Tensor rows = view_as_rows_or_heads(x);
  return rows.defined() ? rows : copy_as_rows(x);
}

OutputRows::OutputRows(const Tensor& to, Form form) : to_(to) {
  if (!to.defined()) return;
  rows_ = form == Form::matrix ? view_as_rows(to) : view_as_rows_or_heads(to);
  if (!rows_.defined()) rows_ = Tensor::empty({row_count(to), to.size(-1)}, to.dtype(), to.device());
}

const Tensor& OutputRows::finished() const {
  if (to_.defined() && rows_.storage() != to_.storage()) {
    const CopyScope scope(to_.device());
    to_.copy_from(rows_.view(to_.shape()));
  }
  return to_;
}

}  // namespace wick
