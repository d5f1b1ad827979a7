// Profiles of a CUDA device: launch by launch, and within a recording. Times are only held to what cannot be otherwise.
#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <vector>

#include "backend/backend.h"
#include "backend/gemm.h"
#include "wick/ops.h"
#include "wick/profile.h"

namespace wick {
namespace {

class CudaProfile : public testing::Test {
 protected:
  void SetUp() override {
    device_.type = DeviceType::cuda;
    if (const std::string missing = backend(device_).missing(device_); !missing.empty()) GTEST_SKIP() << missing;
    a_ = Tensor::full({1024, 512}, 1.0, DType::bf16, device_);
    b_ = Tensor::full({512, 2048}, 1.0, DType::bf16, device_);
    c_ = Tensor::zeros({1024, 2048}, DType::bf16, device_);
    d_ = Tensor::zeros({1024, 2048}, DType::bf16, device_);
    work_();  // plans and memory
  }

  // A product, a copy and a sum, in order.
  const std::function<void()> work_ = [this] {
    gemm(a_, b_, c_);
    d_.copy_from(c_);
    backend(device_).add_into(c_, d_);
  };

  static void expect_work(std::span<const KernelRecord> records) {
    ASSERT_EQ(records.size(), 3U);
    EXPECT_EQ(records[0].name, "gemm 1024x2048x512");
    EXPECT_EQ(records[0].flops, 2.0 * 1024 * 2048 * 512);
    EXPECT_EQ(records[1].name, "copy");
    EXPECT_EQ(records[1].bytes, 2.0 * 2 * 1024 * 2048);
    for (std::size_t i = 0; i < records.size(); ++i) {
      EXPECT_GT(records[i].duration_us, 0.1);
      EXPECT_LT(records[i].duration_us, 1e5);
      if (i > 0) {  // in order, but for the events' own resolution
        EXPECT_GE(records[i].start_us, records[i - 1].start_us + records[i - 1].duration_us - 1);
      }
    }
  }

  Device device_;
  Tensor a_, b_, c_, d_;
};

TEST_F(CudaProfile, LaunchByLaunch) {
  Profile profile(device_);
  work_();
  const std::vector<KernelRecord> records = profile.stop();
  expect_work(records);
  EXPECT_EQ(records[0].start_us, 0);
}

TEST_F(CudaProfile, SeesIntoARecordingMadeMeanwhile) {
  Profile profile(device_);
  const std::unique_ptr<Recording> recording = backend(device_).record(device_, work_);
  recording->replay();
  work_();
  recording->replay();
  const std::vector<KernelRecord> records = profile.stop();
  ASSERT_EQ(records.size(), 9U);
  for (const std::size_t first : {0, 3, 6}) expect_work(std::span(records).subspan(first, 3));
  EXPECT_GT(records[3].start_us, records[2].start_us);
  EXPECT_GT(records[6].start_us, records[5].start_us);
  // Its events stay with it.
  Profile later(device_);
  recording->replay();
  expect_work(later.stop());
  recording->replay();
  backend(device_).synchronize(device_);
  EXPECT_EQ(c_.to(Device::cpu()).to(DType::f32).select(0, 0).select(0, 0).item(), 512);
}

TEST_F(CudaProfile, OneRecordForARecordingMadeBefore) {
  const std::unique_ptr<Recording> recording = backend(device_).record(device_, work_);
  Profile profile(device_);
  recording->replay();
  const std::vector<KernelRecord> records = profile.stop();
  ASSERT_EQ(records.size(), 1U);
  EXPECT_EQ(records[0].name, "recorded graph");
}

TEST_F(CudaProfile, CeilingsAreAGpus) {
  const Ceilings ceilings = measure_ceilings(device_, DType::bf16);
  EXPECT_GT(ceilings.bytes_per_second, 1e11);
  EXPECT_GT(ceilings.flops_per_second, 1e13);
}

}  // namespace
}  // namespace wick
