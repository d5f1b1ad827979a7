#include "ops/rope_append/rope_append.h"
#include "ops/op.h"

namespace wick {

Kernels<RopeAppend> rope_append_kernels{{rope_append_cpu}};

namespace {

constexpr const char* kOp = "rope_append";

// A device is waited for: where the rows lie depends on a value.
Tensor composite(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& cos, const Tensor& sin,
                 const Tensor& end, const Tensor& keys, const Tensor& values) {
  const std::int64_t tokens = q.size(0);
  const std::int64_t at = static_cast<std::int64_t>(end.item()) - tokens;
  keys.slice(0, at, tokens).copy_from(rope(k, cos, sin, at));
  values.slice(0, at, tokens).copy_from(v);
  return rope(q, cos, sin, at);
}

void check_table(const Tensor& q, const char* what, const Tensor& table) {
  const DType wanted = q.dtype() == DType::f64 ? DType::f64 : DType::f32;
  if (!table.defined() || table.dtype() != wanted || table.rank() != 2 || table.size(1) != q.size(2) / 2) {
    fail(ErrorCode::invalid_argument, "[{}] {} is {}, expected {} [positions, {}]", kOp, what, describe(table),
         to_string(wanted), q.size(2) / 2);
  }
  check_same_device(kOp, q, what, table);
}

// Kernels read d densely.
Tensor dense_columns(const Tensor& x) { return x.stride(2) == 1 || x.size(2) == 1 ? x : x.contiguous(); }

}  // namespace

void check_rope_append(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& cos, const Tensor& sin,
                       const Tensor& end, const Tensor& keys, const Tensor& values) {
  check_floating(kOp, "q", q);
  if (q.rank() != 3 || q.size(2) % 2 != 0) {
    fail(ErrorCode::invalid_argument, "[{}] q is {}, expected [tokens, heads, d] with an even d", kOp, describe(q));
  }
  const std::pair<const char*, const Tensor*> others[] = {{"k", &k}, {"v", &v}, {"keys", &keys}, {"values", &values}};
  for (const auto& [what, t] : others) {
    check_same_dtype(kOp, q, what, *t);
    check_same_device(kOp, q, what, *t);
  }
  if (k.rank() != 3 || k.size(0) != q.size(0) || k.size(2) != q.size(2)) {
    fail(ErrorCode::invalid_argument, "[{}] k is {}, expected [{}, kv_heads, {}]", kOp, describe(k), q.size(0),
         q.size(2));
  }
  check_same_shape(kOp, "k", k, "v", v);
  if (keys.rank() != 3 || keys.size(1) != k.size(1) || keys.size(2) != k.size(2) || !keys.is_contiguous() ||
      !values.is_contiguous()) {
    fail(ErrorCode::invalid_argument, "[{}] keys is {}, expected dense [capacity, {}, {}], as values", kOp,
         describe(keys), k.size(1), k.size(2));
  }
  check_same_shape(kOp, "keys", keys, "values", values);
  check_table(q, "cos", cos);
  check_table(q, "sin", sin);
  check_same_shape(kOp, "cos", cos, "sin", sin);
  if (!end.defined() || end.dtype() != DType::i32 || end.numel() != 1) {
    fail(ErrorCode::invalid_argument, "[{}] end is {}, expected i32 [1]", kOp, describe(end));
  }
  check_same_device(kOp, q, "end", end);
  if (end.device().type != DeviceType::cpu) return;
  const std::int64_t last = *end.data<std::int32_t>();
  const std::int64_t rows = std::min(keys.size(0), cos.size(0));
  if (last < q.size(0) || last > rows) {
    fail(ErrorCode::invalid_argument, "[{}] {} tokens end at {}, a cache and a table of {} rows", kOp, q.size(0), last,
         rows);
  }
}

Tensor rope_append(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& cos, const Tensor& sin,
                   const Tensor& end, const Tensor& keys, const Tensor& values) {
  check_rope_append(q, k, v, cos, sin, end, keys, values);
  const NoGrad no_grad;
  const Tensor y = Tensor::empty(q.shape(), q.dtype(), q.device());
  if (run_kernel(kOp, rope_append_kernels, q.device(), dense_columns(q.detach()), dense_columns(k.detach()),
                 dense_columns(v.detach()), cos.detach().contiguous(), sin.detach().contiguous(), end, keys, values,
                 y)) {
    return y;
  }
  return composite(q.detach(), k.detach(), v.detach(), cos.detach(), sin.detach(), end, keys, values);
}

}  // namespace wick
