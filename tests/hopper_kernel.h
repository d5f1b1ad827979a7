#pragma once

// What the tests of kernels that only Hopper has share.

#include <gtest/gtest.h>

#include "backend/backend.h"
#include "backend/cuda/runtime.h"
#include "core/rng.h"
#include "wick/tensor.h"

namespace wick::testing {

class HopperKernel : public ::testing::Test {
 protected:
  void SetUp() override {
    device_.type = DeviceType::cuda;
    if (const std::string missing = backend(device_).missing(device_); !missing.empty()) GTEST_SKIP() << missing;
    if (cuda::info().major != 9) GTEST_SKIP() << "its instructions are Hopper's";
  }
  Tensor random(const Shape& shape, DType dtype, double bound) {
    const Tensor t = Tensor::empty(shape, DType::f32, device_);
    fill_uniform(t, -bound, bound, 5, {RandomPurpose::initialisation, next_++});
    return t.to(dtype);
  }
  static Tensor wide(const Tensor& t) { return t.defined() ? t.to(Device::cpu()).to(DType::f64) : t; }

  Device device_;

 private:
  std::uint32_t next_ = 0;
};

}  // namespace wick::testing
