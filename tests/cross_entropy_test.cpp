// Expected numbers: torch.nn.functional.cross_entropy(x @ w.T, reduction='sum') and its gradients in float64.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>

#include "expect_error.h"
#include "op_matrix.h"

namespace wick::testing {
namespace {

constexpr double kLoss = 16.196904047099203;
const std::vector<double> kDx = {-2.726945673653,
                                 1.265506594062,
                                 1.260969717763,
                                 -2.733688133898,
                                 0.0,
                                 0.0,
                                 0.0,
                                 0.0,
                                 0.540395706674,
                                 0.525533787068,
                                 0.561802882569,
                                 0.538419602826,
                                 0.151228833648,
                                 0.147325500384,
                                 0.144142049778,
                                 0.147489782812,
                                 0.0,
                                 0.0,
                                 0.0,
                                 0.0,
                                 0.734466014731,
                                 0.729157270744,
                                 -3.234984272914,
                                 0.732904102767};
const std::vector<double> kDweight = {
    -0.094299485821, 0.197888812228,  0.458480097289,  0.063032674667,  -0.351389964956, 0.605580804919,
    -0.790730040575, 0.163901988054,  1.372618515616,  -0.245230589721, -1.879712342837, 0.501468997358,
    -0.406914172357, -0.685783362738, 3.014987571617,  -0.557074505639, -0.235115213546, 0.546723165321,
    -0.593911149274, 0.185874682767,  -0.004597328766, 0.001098104034,  0.003255521021,  -0.001530557258,
    -0.280302350169, -0.420276934043, -0.212369657241, -0.355673279947};
constexpr double kSmoothLoss = 16.61654690424206;
const std::vector<double> kSmoothDx = {-2.591231387939,
                                       1.115506594062,
                                       1.282398289192,
                                       -2.540830991041,
                                       0.0,
                                       0.0,
                                       0.0,
                                       0.0,
                                       0.476109992388,
                                       0.575533787068,
                                       0.383231453998,
                                       0.531276745683,
                                       -0.013056880638,
                                       0.097325500384,
                                       0.265570621206,
                                       0.04034692567,
                                       0.0,
                                       0.0,
                                       0.0,
                                       0.0,
                                       0.620180300446,
                                       0.729157270744,
                                       -3.063555701485,
                                       0.675761245624};
const std::vector<double> kSmoothDweight = {
    -0.217513771535, 0.144317383656,  0.588837240147,  -0.022681611048, -0.28710425067,  0.577009376347,
    -0.797872897718, 0.178187702339,  1.299404229901,  -0.248802018292, -1.69935519998,  0.465754711643,
    -0.430128458071, -0.63935479131,  2.845344714474,  -0.542788791354, -0.170829499261, 0.51815173675,
    -0.601054006417, 0.200160397053,  0.05968838552,   -0.027473324537, -0.003887336122, 0.012755157027,
    -0.253516635884, -0.323848362614, -0.332012514384, -0.291387565661};
const std::vector<double> kLogProbs = {-8.510624760356, -9.507622594866, -1.237922487378,
                                       -0.350217848282, -5.880242317948, -6.098138951083};

// Numbers that are exact in every type, the same as the oracle's.
Tensor matrix(const Shape& shape, std::int64_t factor, std::int64_t start) {
  const Tensor t = Tensor::empty(shape, DType::f32);
  for (std::int64_t i = 0; i < t.numel(); ++i) {
    t.data<float>()[i] = static_cast<float>((i * factor + start) % 32 - 16) / 8.0F;
  }
  return t;
}
Tensor hidden() { return matrix({6, 4}, 13, 5); }
Tensor head() { return matrix({7, 4}, 11, 3); }
const std::vector<std::int64_t> kLabels{2, -100, 6, 0, -100, 3};

void expect_near(const Tensor& found, const std::vector<double>& expected, double tolerance) {
  const std::vector<double> values = found.to(DType::f64).to_vector<double>();
  ASSERT_EQ(values.size(), expected.size());
  for (std::size_t i = 0; i < values.size(); ++i) EXPECT_NEAR(values[i], expected[i], tolerance) << i;
}

struct Case {
  bool fused;
  DType dtype;
};
class CrossEntropy : public ::testing::TestWithParam<Case> {
 protected:
  CrossEntropy() : fused_(GetParam().fused) {}

  DType dtype() const { return GetParam().dtype; }
  double tolerance() const { return dtype() == DType::f64 ? 1e-11 : dtype() == DType::f32 ? 3e-6 : 2e-2; }

  void expect_loss(const CrossEntropyOptions& options, double loss, const std::vector<double>& dx,
                   const std::vector<double>& dweight) const {
    const Parameter x("x", hidden().to(dtype()));
    const Parameter weight("weight", head().to(dtype()));
    Tape tape;
    const Tensor found = linear_cross_entropy(x.value(), weight.value(), Tensor::from(kLabels, {6}), options);
    EXPECT_EQ(found.dtype(), dtype() == DType::f64 ? DType::f64 : DType::f32);
    EXPECT_NEAR(found.item(), loss, tolerance());
    tape.backward(found);
    expect_near(x.grad(), dx, tolerance());
    expect_near(weight.grad(), dweight, tolerance());
  }

 private:
  FusedScope fused_;
};

TEST_P(CrossEntropy, MatchesTorch) { expect_loss({}, kLoss, kDx, kDweight); }

TEST_P(CrossEntropy, MatchesTorchWithSmoothing) {
  expect_loss({.label_smoothing = 0.1}, kSmoothLoss, kSmoothDx, kSmoothDweight);
  expect_loss({.label_smoothing = 0.1, .chunk = 3}, kSmoothLoss, kSmoothDx, kSmoothDweight);
}

TEST_P(CrossEntropy, BackwardScalesByTheIncomingGradient) {
  const Parameter x("x", hidden().to(dtype()));
  Tape tape;
  const Tensor loss = linear_cross_entropy(x.value(), head().to(dtype()), Tensor::from(kLabels, {6}));
  tape.backward(mul(loss, 0.25));
  std::vector<double> expected = kDx;
  for (double& value : expected) value *= 0.25;
  expect_near(x.grad(), expected, tolerance());
}

TEST_P(CrossEntropy, TokenLogProbsMatchTorch) {
  const Tensor targets = Tensor::from(std::vector<std::int32_t>{2, 1, 6, 0, 5, 3}, {6});
  expect_near(token_log_probs(hidden().to(dtype()), head().to(dtype()), targets), kLogProbs, tolerance());
}

// A model that diverges must be seen to: NaN and infinite activations do not vanish in the exponentials.
TEST_P(CrossEntropy, NotFiniteActivationsGiveALossThatIsNotFinite) {
  for (const double bad : {std::nan(""), std::numeric_limits<double>::infinity()}) {
    const Tensor x = hidden().to(dtype());
    x.slice(0, 3, 1).slice(1, 2, 1).copy_from(Tensor::full({1, 1}, bad, DType::f64));
    EXPECT_FALSE(std::isfinite(linear_cross_entropy(x, head().to(dtype()), Tensor::from(kLabels, {6})).item()));
  }
}

TEST_P(CrossEntropy, AnIgnoredRowIsNeverRead) {
  const Tensor x = hidden().to(dtype());
  x.slice(0, 1, 1).copy_from(Tensor::full({1, 4}, std::nan(""), DType::f64));
  EXPECT_NEAR(linear_cross_entropy(x, head().to(dtype()), Tensor::from(kLabels, {6})).item(), kLoss, tolerance());
}

TEST_P(CrossEntropy, RefusesWhatDoesNotFit) {
  const Tensor x = hidden().to(dtype());
  const Tensor weight = head().to(dtype());
  const Tensor labels = Tensor::from(kLabels, {6});
  const auto refused = [&](const std::string& part, const Tensor& a, const Tensor& b, const Tensor& c,
                           const CrossEntropyOptions& options = {}) {
    test::expect_refused(part, [&] { linear_cross_entropy(a, b, c, options); });
  };
  refused("labels[2] is 7, expected 0 to 6", x, weight,
          Tensor::from(std::vector<std::int32_t>{0, -100, 7, 0, 0, 0}, {6}));
  refused("labels[1] is -100", x, weight, labels, {.ignore_index = -1});
  refused("label_smoothing is 1", x, weight, labels, {.label_smoothing = 1});
  refused("chunk is -1", x, weight, labels, {.chunk = -1});
  refused("labels is i64 [5]", x, weight, labels.slice(0, 0, 5));
  refused("expected [tokens, k] and [vocab, k]", x, weight.slice(1, 0, 3), labels);
  refused("expected dtype", x, weight.to(dtype() == DType::f16 ? DType::f32 : DType::f16), labels);
}

INSTANTIATE_TEST_SUITE_P(Kernels, CrossEntropy,
                         ::testing::Values(Case{true, DType::f32}, Case{true, DType::bf16}, Case{true, DType::f16},
                                           Case{false, DType::f64}, Case{false, DType::f32}, Case{false, DType::bf16}),
                         [](const auto& info) {
                           return std::string(to_string(info.param.dtype)) +
                                  (info.param.fused ? "_fused" : "_composite");
                         });

}  // namespace
}  // namespace wick::testing
