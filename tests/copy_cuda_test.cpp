// Copies between host and device of sizes below, at and past what is staged through pinned memory.
#include <gtest/gtest.h>

#include <cstring>
#include <numeric>

#include "backend/backend.h"
#include "wick/tensor.h"

namespace wick {
namespace {

class CudaCopy : public testing::Test {
 protected:
  void SetUp() override {
    device_.type = DeviceType::cuda;
    if (const std::string missing = backend(device_).missing(device_); !missing.empty()) GTEST_SKIP() << missing;
  }
  static Tensor counted(std::int64_t count, std::int32_t first) {
    std::vector<std::int32_t> values(static_cast<std::size_t>(count));
    std::iota(values.begin(), values.end(), first);
    return Tensor::from(values, {count});
  }
  Device device_;
};

TEST_F(CudaCopy, ComesBackAsItWent) {
  constexpr std::int64_t kMiB = (1 << 20) / 4;  // elements
  for (const std::int64_t count : {std::int64_t{1}, 4 * kMiB - 1, 4 * kMiB, 32 * kMiB, 32 * kMiB + 1, 97 * kMiB + 5}) {
    SCOPED_TRACE(count);
    const Tensor values = counted(count, static_cast<std::int32_t>(count));
    const Tensor back = values.to(device_).to(Device::cpu());
    EXPECT_EQ(std::memcmp(back.raw(), values.raw(), static_cast<std::size_t>(count) * 4), 0);
  }
}

// What was copied may change or go at once, also while it is still on its way.
TEST_F(CudaCopy, HasReadItsSourceWhenItReturns) {
  constexpr std::int64_t kCount = 12 << 20;
  std::vector<Tensor> arrived;
  Tensor source = counted(kCount, 0);
  for (std::int32_t i = 0; i < 6; ++i) {
    source.copy_from(counted(kCount, i));
    arrived.push_back(source.to(device_));
    source.fill(-1);
  }
  for (std::int32_t i = 0; i < 6; ++i) {
    const Tensor back = arrived[static_cast<std::size_t>(i)].to(Device::cpu());
    EXPECT_EQ(std::memcmp(back.raw(), counted(kCount, i).raw(), kCount * 4), 0) << i;
  }
}

TEST_F(CudaCopy, GoesOnAfterThePinnedMemoryWasGivenBack) {
  const Tensor values = counted(9 << 20, 3);
  for (int i = 0; i < 2; ++i) {
    const Tensor back = values.to(device_).to(Device::cpu());
    EXPECT_EQ(std::memcmp(back.raw(), values.raw(), (9 << 20) * 4), 0);
    backend(device_).trim(device_);
  }
}

}  // namespace
}  // namespace wick
