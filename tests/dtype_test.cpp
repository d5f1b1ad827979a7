#include "wick/dtype.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "wick/error.h"

namespace wick {
namespace {

TEST(F16, EveryBitPatternSurvivesARoundTrip) {
  for (std::uint32_t u = 0; u < 0x10000U; ++u) {
    f16 h;
    h.bits = static_cast<std::uint16_t>(u);
    const float value = static_cast<float>(h);
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(static_cast<float>(f16(value))));
    } else {
      EXPECT_EQ(f16(value).bits, h.bits) << u;
    }
  }
}

TEST(F16, RoundsToNearestEven) {
  EXPECT_EQ(static_cast<float>(f16(65519.0F)), 65504.0F);
  EXPECT_TRUE(std::isinf(static_cast<float>(f16(65520.0F))));
  EXPECT_EQ(static_cast<float>(f16(1.0F + 0x1p-11F)), 1.0F);
  EXPECT_EQ(static_cast<float>(f16(1.0F + 0x1.8p-10F)), 1.0F + 0x1p-9F);
  EXPECT_EQ(f16(0x1p-25F).bits, 0);
  EXPECT_EQ(f16(0x1.8p-25F).bits, 1);
}

TEST(BF16, RoundsToNearestEvenAndKeepsNaN) {
  EXPECT_EQ(static_cast<float>(bf16(1.0F + 0x1p-8F)), 1.0F);
  EXPECT_EQ(static_cast<float>(bf16(1.0F + 0x1.8p-7F)), 1.0F + 0x1p-6F);
  EXPECT_TRUE(std::isnan(static_cast<float>(bf16(std::numeric_limits<float>::quiet_NaN()))));
  EXPECT_TRUE(std::isinf(static_cast<float>(bf16(std::numeric_limits<float>::max()))));
}

TEST(DTypeNames, AreReadInBothSpellingsAndRefusedByName) {
  EXPECT_EQ(dtype_from_string("bfloat16"), DType::bf16);
  EXPECT_EQ(dtype_from_string("f32"), DType::f32);
  EXPECT_THROW(dtype_from_string("float8"), Error);
}

}  // namespace
}  // namespace wick
