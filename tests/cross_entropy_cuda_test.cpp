// The cross-entropy of a head on CUDA against sums in double, at vocabularies that take each way of its kernel: rows in
// one block, in clusters of 2, 4 and 8 that walk over several rows each, and rows that no cluster holds; and losses
// alone.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "backend/backend.h"
#include "core/rng.h"
#include "ops/linear_cross_entropy/linear_cross_entropy.h"

namespace wick {
namespace {

constexpr std::int64_t kWidth = 16;
constexpr std::int32_t kIgnored = -1;
constexpr std::int32_t kNoWord = -2;

struct Case {
  std::int64_t vocab, tokens;
};

void PrintTo(const Case& c, std::ostream* out) { *out << c.vocab << " words, " << c.tokens << " tokens"; }

std::vector<double> values(const Tensor& t) { return t.contiguous().to(DType::f64).to_vector<double>(); }

// dx's error at most: the dlogits of a row, together 2 or less, are rounded, and so is dx, which is 2 or less since the
// weights are 1 or less. In float32 the roundings of the sums are larger.
double rounding(DType dtype) { return dtype == DType::f32 ? 1e-4 : dtype == DType::bf16 ? 4.0 / 512 : 4.0 / 4096; }

struct Expected {
  std::vector<double> losses, dx, largest_logits;
};

// Row by row as the definition says.
Expected in_double(const Case& c, const std::vector<double>& x, const std::vector<double>& weight,
                   const std::vector<std::int32_t>& labels, double smoothing) {
  Expected e;
  e.dx.resize(x.size());
  std::vector<double> p(static_cast<std::size_t>(c.vocab));
  for (std::size_t row = 0; row < labels.size(); ++row) {
    e.losses.push_back(0);
    e.largest_logits.push_back(0);
    if (labels[row] == kIgnored) continue;
    const double* const in = &x[row * kWidth];
    double top = -INFINITY;
    double mean = 0;
    for (std::size_t word = 0; word < p.size(); ++word) {
      double logit = 0;
      for (std::size_t i = 0; i < kWidth; ++i) logit += in[i] * weight[word * kWidth + i];
      p[word] = logit;
      top = std::max(top, logit);
      mean += logit / static_cast<double>(c.vocab);
      e.largest_logits.back() = std::max(e.largest_logits.back(), std::abs(logit));
    }
    const auto label = static_cast<std::size_t>(labels[row]);
    const double at_label = p[label];
    double sum = 0;
    for (double& each : p) {
      each = std::exp(each - top);
      sum += each;
    }
    e.losses.back() = std::log(sum) + top - (1 - smoothing) * at_label - smoothing * mean;
    double* const dx = &e.dx[row * kWidth];
    for (std::size_t word = 0; word < p.size(); ++word) {
      const double slope =
          p[word] / sum - smoothing / static_cast<double>(c.vocab) - (word == label ? 1 - smoothing : 0);
      for (std::size_t i = 0; i < kWidth; ++i) dx[i] += slope * weight[word * kWidth + i];
    }
  }
  return e;
}

class CudaCrossEntropy : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    device_.type = DeviceType::cuda;
    if (const std::string missing = backend(device_).missing(device_); !missing.empty()) GTEST_SKIP() << missing;
  }

  static Tensor random(const Shape& shape, DType dtype, std::uint32_t index) {
    const Tensor t = Tensor::empty(shape, DType::f32);
    fill_uniform(t, -1, 1, 1, {RandomPurpose::initialisation, index});
    return t.to(dtype);
  }
  // Every third row has logits of some hundreds.
  static Tensor hidden_states(DType dtype) {
    const Tensor x = random({GetParam().tokens, kWidth}, DType::f32, 1);
    for (std::int64_t i = 0; i < x.numel(); ++i) x.data<float>()[i] *= i / kWidth % 3 == 0 ? 100.0F : 1.0F;
    return x.to(dtype);
  }
  static Tensor head(DType dtype) { return random({GetParam().vocab, kWidth}, dtype, 2); }
  // Ignored rows beside each other and alone, the first and the last word, and words from everywhere.
  static std::vector<std::int32_t> labels() {
    const auto [vocab, tokens] = GetParam();
    std::vector<std::int32_t> all;
    for (std::int64_t i = 0; i < tokens; ++i) {
      const std::int64_t word = i % 7 == 0 ? vocab - 1 : i % 7 == 1 ? 0 : i * 7919 % vocab;
      all.push_back(i % 11 == 4 || i % 5 == 3 || i < 2 ? kIgnored : static_cast<std::int32_t>(word));
    }
    return all;
  }

  struct Result {
    Tensor loss, losses, dx;
  };
  Result run(const Tensor& x, const Tensor& weight, const std::vector<std::int32_t>& labels, double smoothing,
             std::int64_t chunk, bool gradient = true) const {
    const Result r = {Tensor::full({}, 77, DType::f32, device_), Tensor::full({x.size(0)}, 77, DType::f32, device_),
                      gradient ? Tensor::full(x.shape(), 77, x.dtype(), device_) : Tensor()};
    const Declined reason = linear_cross_entropy_kernels.on(DeviceType::cuda)(
        x.to(device_), weight.to(device_), Tensor::from(labels, {x.size(0)}).to(device_), smoothing, chunk, r.loss,
        r.losses, r.dx, Tensor());
    EXPECT_EQ(reason, nullptr);
    return r;
  }

  Device device_;
};

INSTANTIATE_TEST_SUITE_P(Vocabularies, CudaCrossEntropy,
                         testing::Values(Case{1000, 900}, Case{32000, 450}, Case{50257, 250}, Case{128256, 110},
                                         Case{151936, 110}, Case{262144, 60}, Case{300007, 20}),
                         [](const auto& info) { return std::to_string(info.param.vocab) + "_words"; });

TEST_P(CudaCrossEntropy, MatchesSumsInDouble) {
  const std::vector<std::int32_t> targets = labels();
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    const Tensor x = hidden_states(dtype);
    const Tensor weight = head(dtype);
    for (const double smoothing : {0.0, 0.1}) {
      const Expected expected = in_double(GetParam(), values(x), values(weight), targets, smoothing);
      double total = 0;
      for (const double loss : expected.losses) total += loss;
      for (const std::int64_t chunk : {0, 48}) {  // 48: the last one is shorter
        SCOPED_TRACE(std::string(to_string(dtype)) + ", smoothing " + std::to_string(smoothing) + ", chunk " +
                     std::to_string(chunk));
        const Result found = run(x, weight, targets, smoothing, chunk);
        EXPECT_NEAR(found.loss.to(Device{}).item(), total, 1e-5 * total);
        const Result alone = run(x, weight, targets, smoothing, chunk, false);
        EXPECT_NEAR(alone.loss.to(Device{}).item(), total, 1e-5 * total);
        const std::vector<double> losses = values(found.losses);
        const std::vector<double> losses_alone = values(alone.losses);
        const std::vector<double> dx = values(found.dx);
        for (std::size_t row = 0; row < targets.size(); ++row) {
          const double loss_tolerance = 5e-5 + 5e-6 * expected.largest_logits[row];
          ASSERT_NEAR(losses[row], expected.losses[row], loss_tolerance) << "row " << row;
          ASSERT_NEAR(losses_alone[row], expected.losses[row], loss_tolerance) << "row " << row;
          for (std::size_t i = row * kWidth; i < (row + 1) * kWidth; ++i) {
            const double tolerance = rounding(dtype) + 5e-7 * expected.largest_logits[row];
            ASSERT_NEAR(dx[i], expected.dx[i], targets[row] == kIgnored ? 0 : tolerance) << "row " << row;
          }
        }
      }
    }
  }
}

TEST_P(CudaCrossEntropy, IsTheSameByteForByte) {
  const Tensor x = hidden_states(DType::bf16);
  const Tensor weight = head(DType::bf16);
  const Result first = run(x, weight, labels(), 0.1, 0);
  for (int again = 0; again < 5; ++again) {
    const Result other = run(x, weight, labels(), 0.1, 0);
    EXPECT_EQ(values(other.losses), values(first.losses));
    EXPECT_EQ(values(other.dx), values(first.dx));
    EXPECT_EQ(values(other.loss), values(first.loss));
  }
}

TEST_P(CudaCrossEntropy, OfIgnoredRowsAloneIsZero) {
  const std::vector<std::int32_t> none(static_cast<std::size_t>(GetParam().tokens), kIgnored);
  const Result found = run(hidden_states(DType::bf16), head(DType::bf16), none, 0.1, 0);
  EXPECT_EQ(found.loss.to(Device{}).item(), 0);
  for (const double value : values(found.losses)) ASSERT_EQ(value, 0);
  for (const double value : values(found.dx)) ASSERT_EQ(value, 0);
}

// Each way of the kernel with as few words as take it (49160: 16 packs in clusters of 2, under racecheck), and with so
// many tokens that clusters on 132 multiprocessors have three: the memory in which they meet then serves a second time.
// Small enough for tools that watch shared memory.
class CudaLosses : public CudaCrossEntropy {};
INSTANTIATE_TEST_SUITE_P(Ways, CudaLosses,
                         testing::Values(Case{1000, 830}, Case{16388, 410}, Case{32772, 280}, Case{65540, 105},
                                         Case{49160, 155}, Case{131080, 105}, Case{163848, 55}, Case{262147, 8}),
                         [](const auto& info) { return std::to_string(info.param.vocab) + "_words"; });

TEST_P(CudaLosses, MatchSumsInDouble) {
  const std::vector<std::int32_t> targets = labels();
  const Tensor x = hidden_states(DType::bf16);
  const Tensor weight = head(DType::bf16);
  const Expected expected = in_double(GetParam(), values(x), values(weight), targets, 0.1);
  const std::vector<double> losses = values(run(x, weight, targets, 0.1, 0, false).losses);
  for (std::size_t row = 0; row < targets.size(); ++row) {
    ASSERT_NEAR(losses[row], expected.losses[row], 5e-5 + 5e-6 * expected.largest_logits[row]) << "row " << row;
  }
}

// What is not a number stays in its row.
TEST_P(CudaCrossEntropy, ALabelThatIsNoWordOrARowThatIsNotFiniteIsSeen) {
  const Tensor x = hidden_states(DType::bf16);
  const Tensor weight = head(DType::bf16);
  std::vector<std::int32_t> targets = labels();
  const Result whole = run(x, weight, targets, 0, 0);
  targets[5] = kNoWord;
  targets[7] = 1;
  x.slice(0, 7, 1).slice(1, 3, 1).copy_from(Tensor::full({1, 1}, std::nan(""), DType::f32));
  const Result found = run(x, weight, targets, 0, 0);
  EXPECT_TRUE(std::isnan(found.loss.to(Device{}).item()));
  const std::vector<double> losses = values(run(x, weight, targets, 0, 0, false).losses);
  for (std::size_t row = 0; row < losses.size(); ++row) ASSERT_EQ(std::isnan(losses[row]), row == 5 || row == 7) << row;
  const std::vector<double> before = values(whole.dx);
  const std::vector<double> after = values(found.dx);
  for (std::size_t i = 0; i < after.size(); ++i) {
    const std::size_t row = i / kWidth;
    if (row == 5 || row == 7) {
      ASSERT_TRUE(std::isnan(after[i])) << row;
    } else {
      ASSERT_EQ(after[i], before[i]) << row;
    }
  }
}

}  // namespace
}  // namespace wick
