#include "models/rope_table.h"

#include <cmath>
#include <numbers>

namespace wick {
namespace {

// Llama 3.1's rescaling (Dubey et al. 2024, and the model's reference code): long waves are stretched by `factor`,
// short ones kept, those between interpolated.
double llama3_frequency(const RopeConfig& rope, double frequency) {
  const double length = static_cast<double>(rope.original_max_position_embeddings);
  const double wave = 2 * std::numbers::pi / frequency;
  if (wave < length / rope.high_freq_factor) return frequency;
  if (wave > length / rope.low_freq_factor) return frequency / rope.factor;
  const double smooth = (length / wave - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor);
  return (1 - smooth) * frequency / rope.factor + smooth * frequency;
}

double inverse_frequency(const RopeConfig& rope, std::int64_t i, std::int64_t head_dim) {
  const double frequency = 1.0 / std::pow(rope.theta, 2.0 * static_cast<double>(i) / static_cast<double>(head_dim));
  switch (rope.kind) {
    case RopeConfig::Kind::standard:
      return frequency;
    case RopeConfig::Kind::linear:
      return frequency / rope.factor;
    case RopeConfig::Kind::llama3:
      return llama3_frequency(rope, frequency);
  }
  return frequency;
}

}  // namespace

RopeTable make_rope_table(const RopeConfig& rope, std::int64_t head_dim, std::int64_t positions, DType dtype,
                          Device device) {
  const DType out = dtype == DType::f64 ? DType::f64 : DType::f32;
  const std::int64_t half = head_dim / 2;
  RopeTable table{Tensor::empty({positions, half}, DType::f64), Tensor::empty({positions, half}, DType::f64)};
  for (std::int64_t i = 0; i < half; ++i) {
    const double frequency = inverse_frequency(rope, i, head_dim);
    for (std::int64_t p = 0; p < positions; ++p) {
      // The models were trained with angles in float32: the product is rounded as theirs is.
      const double angle = out == DType::f64
                               ? static_cast<double>(p) * frequency
                               : static_cast<double>(static_cast<float>(p) * static_cast<float>(frequency));
      table.cos.data<double>()[p * half + i] = std::cos(angle);
      table.sin.data<double>()[p * half + i] = std::sin(angle);
    }
  }
  return {table.cos.to(out).to(device), table.sin.to(out).to(device)};
}

}  // namespace wick
