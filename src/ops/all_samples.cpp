#include "ops/samples.h"

namespace wick {

#define WICK_OP(name) std::vector<OpSample> name##_samples();
#include "ops/ops.def"
#undef WICK_OP

std::vector<OpSamples> all_samples() {
  return {
#define WICK_OP(name) {#name, name##_samples()},
#include "ops/ops.def"
#undef WICK_OP
  };
}

}  // namespace wick
