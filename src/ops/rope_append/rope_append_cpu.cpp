#include "ops/rope/rope.h"
#include "ops/rope_append/rope_append.h"

namespace wick {

Declined rope_append_cpu(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& cos, const Tensor& sin,
                         const Tensor& end, const Tensor& keys, const Tensor& values, const Tensor& y) {
  const std::int64_t tokens = q.size(0);
  const std::int64_t at = *end.data<std::int32_t>() - tokens;
  const Tensor c = cos.slice(0, at, tokens);
  const Tensor s = sin.slice(0, at, tokens);
  if (const Declined reason = rope_rotate_cpu(q, c, s, Tensor(), false, y)) return reason;
  if (const Declined reason = rope_rotate_cpu(k, c, s, Tensor(), false, keys.slice(0, at, tokens))) return reason;
  values.slice(0, at, tokens).copy_from(v);
  return nullptr;
}

}  // namespace wick
