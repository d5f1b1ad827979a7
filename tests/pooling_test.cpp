// What the op matrix cannot see of pool and l2_normalize: a sequence's bytes beside others, ties, zeros, errors.
#include <gtest/gtest.h>

#include <cstring>

#include "core/rng.h"
#include "expect_error.h"
#include "wick/ops.h"

namespace wick::test {
namespace {

constexpr Pooling kModes[] = {Pooling::mean, Pooling::mean_sqrt, Pooling::cls, Pooling::max, Pooling::last};

Tensor offsets(const std::vector<std::int32_t>& values) { return Tensor::from(values, {std::ssize(values)}); }

Tensor random(const Shape& shape) {
  const Tensor t = Tensor::empty(shape, DType::f32);
  fill_uniform(t, -1, 1, 3, {RandomPurpose::initialisation, 0});
  return t;
}

TEST(Pool, ASequenceHasTheSameBytesInAnyBatch) {
  const Tensor hidden = random({300, 48});
  const std::vector<std::int32_t> at = {0, 1, 40, 40, 167, 300};
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const Pooling mode : kModes) {
      const Tensor all = pool(hidden.to(dtype), offsets(at), mode);
      for (std::size_t s = 0; s + 1 < at.size(); ++s) {
        const std::int32_t count = at[s + 1] - at[s];
        const Tensor alone = pool(hidden.to(dtype).slice(0, at[s], count), offsets({0, count}), mode);
        EXPECT_EQ(std::memcmp(alone.raw(), all.slice(0, static_cast<std::int64_t>(s), 1).raw(),
                              static_cast<std::size_t>(alone.numel()) * size_of(dtype)),
                  0)
            << "sequence " << s << ", mode " << static_cast<int>(mode);
      }
    }
  }
}

TEST(Pool, TheFirstOfEqualsGetsTheGradientOfMax) {
  for (const bool fused : {true, false}) {
    set_fused(fused);
    const Parameter x("x", Tensor::from(std::vector<float>{1, 2, 3, 2, 3, 0}, {3, 2}));
    Tape tape;
    const Tensor y = pool(x.value(), offsets({0, 3}), Pooling::max);
    tape.backward(y, Tensor::from(std::vector<float>{5, 7}, {1, 2}));
    EXPECT_EQ(y.to_vector<float>(), (std::vector<float>{3, 2}));
    EXPECT_EQ(x.grad().to_vector<float>(), (std::vector<float>{0, 7, 5, 0, 0, 0}));
  }
  set_fused(true);
}

TEST(Pool, RefusesOffsetsThatDoNotFit) {
  const Tensor hidden = random({4, 3});
  const auto refused = [&](const std::vector<std::int32_t>& at, std::string_view part) {
    expect_refused(part, [&] { (void)pool(hidden, offsets(at), Pooling::mean); });
  };
  refused({0}, "[pool] offsets has 1 elements, expected 2 or more");
  refused({0, 3}, "[pool] offsets run from 0 to 3, expected 0 to 4");
  refused({0, 3, 2, 4}, "[pool] offsets[2] is 2, less than the 3 before it");
  expect_refused("[pool] hidden must be a matrix", [] { (void)pool(random({4}), offsets({0, 4}), Pooling::cls); });
}

TEST(L2Normalize, ZerosStayAndPassTheGradientOfTheSmallestLength) {
  for (const bool fused : {true, false}) {
    set_fused(fused);
    const Parameter x("x", Tensor::from(std::vector<float>{0, 0, 3, 4}, {2, 2}));
    Tape tape;
    const Tensor y = l2_normalize(x.value());
    tape.backward(y, Tensor::from(std::vector<float>{1, 2, 1, 0}, {2, 2}));
    EXPECT_EQ(y.to_vector<float>(), (std::vector<float>{0, 0, 0.6F, 0.8F}));
    const std::vector<float> dx = x.grad().to_vector<float>();
    EXPECT_FLOAT_EQ(dx[0], 1e12F);
    EXPECT_FLOAT_EQ(dx[1], 2e12F);
    EXPECT_NEAR(dx[2], 0.128, 1e-6);
    EXPECT_NEAR(dx[3], -0.096, 1e-6);
  }
  set_fused(true);
}

}  // namespace
}  // namespace wick::test
