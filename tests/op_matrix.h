#pragma once

#include <random>
#include <string>
#include <vector>

#include "ops/samples.h"

namespace wick::testing {

/// Where tests that run on any device run: WICK_TEST_DEVICE (cpu, cuda), the CPU where it is not set.
Device test_device();

enum class Layout { dense, strided };

/// A sample's inputs: drawn once in f64 and rounded to `dtype`, so that every run of the sample sees the same numbers.
std::vector<Tensor> draw_inputs(const OpSample& sample, DType dtype, unsigned seed);
/// The same numbers in another dtype and layout, on a device; `strided` ones lie in every second column or transposed
/// in their storage.
std::vector<Tensor> convert_inputs(const OpSample& sample, const std::vector<Tensor>& inputs, DType dtype,
                                   Layout layout, Device device = Device::cpu());

/// Largest |a - b| over the largest |b| (over 1e-30 where b is all zeros). Not finite, where b is: infinite.
double relative_error(const Tensor& a, const Tensor& b);

/// Runs a sample and pulls `seeds` (f64, one per output) back to its differentiable inputs (undefined for the others).
struct RunResult {
  std::vector<Tensor> outputs;
  std::vector<Tensor> grads;
};
RunResult run_sample(const OpSample& sample, const std::vector<Tensor>& inputs, const std::vector<Tensor>& seeds);

/// Restores the fused switch.
class FusedScope {
 public:
  explicit FusedScope(bool enabled) : before_(fused_enabled()) { set_fused(enabled); }
  ~FusedScope() { set_fused(before_); }
  FusedScope(const FusedScope&) = delete;
  FusedScope& operator=(const FusedScope&) = delete;

 private:
  bool before_;
};

}  // namespace wick::testing
