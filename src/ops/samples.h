#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "wick/ops.h"

namespace wick {

/// One input of a sample. Values are drawn from a seeded generator.
struct SampleInput {
  enum class Kind {
    normal,    ///< floating, standard normal times `scale`
    positive,  ///< floating, in [0.5, 1.5) times `scale`
    table,     ///< floating, in [-1, 1], always f32 (f64 in f64 runs): cos and sin
    indices,   ///< i32 in [0, limit)
    fixed,     ///< i32, the given values
  };
  Shape shape;
  Kind kind = Kind::normal;
  double scale = 1.0;
  std::int64_t limit = 0;
  std::vector<std::int32_t> values = {};
  bool differentiable = true;  ///< of floating ones: its gradient is checked
};

/// One case of an op. From the list of these come the correctness test in every dtype, layout and both ways (fused and
/// composite), the gradient tests, and the benchmark.
struct OpSample {
  std::string name;
  std::vector<SampleInput> inputs;
  std::function<std::vector<Tensor>(std::span<const Tensor>)> run;
  bool gradients = true;
  bool bench = false;  ///< a size for the benchmark rather than for the tests
  std::vector<DType> dtypes = {DType::f64, DType::f32, DType::bf16, DType::f16};
};

inline SampleInput normal(const Shape& shape, double scale = 1.0) { return {.shape = shape, .scale = scale}; }
inline SampleInput frozen(const Shape& shape, double scale = 1.0) {
  return {.shape = shape, .scale = scale, .differentiable = false};
}
inline SampleInput positive(const Shape& shape) { return {.shape = shape, .kind = SampleInput::Kind::positive}; }
inline SampleInput table(const Shape& shape) {
  return {.shape = shape, .kind = SampleInput::Kind::table, .differentiable = false};
}
inline SampleInput indices(const Shape& shape, std::int64_t limit) {
  return {.shape = shape, .kind = SampleInput::Kind::indices, .limit = limit, .differentiable = false};
}
inline SampleInput fixed(std::vector<std::int32_t> values) {
  const auto count = static_cast<std::int64_t>(values.size());
  return {.shape = {count}, .kind = SampleInput::Kind::fixed, .values = std::move(values), .differentiable = false};
}

struct OpSamples {
  const char* op;
  std::vector<OpSample> samples;
};
/// Those of every op in ops.def. An op that is listed there without samples does not link.
std::vector<OpSamples> all_samples();

}  // namespace wick
