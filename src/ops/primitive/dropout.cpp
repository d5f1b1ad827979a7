#include "ops/op.h"

namespace wick {

Tensor dropout(const Tensor& x, const Dropout& options) {
  check_floating("dropout", "x", x);
  if (options.p == 0) return x;
  fail(ErrorCode::unsupported, "[dropout] p is {}", options.p);
}

}  // namespace wick
