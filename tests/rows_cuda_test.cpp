// The CUDA kernels of the ops on rows against sums in double, at sizes that take each of their ways: rows in part of a
// warp, a block, or a cluster, so many that they pass L2 or few, and rows too long or not aligned.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "backend/backend.h"
#include "backend/cuda/row_plan.h"
#include "core/batch_invariance.h"
#include "core/rng.h"
#include "ops/layer_norm/layer_norm.h"
#include "ops/rms_norm/rms_norm.h"
#include "ops/softmax/softmax.h"

namespace wick {
namespace {

constexpr float kEps = 1e-5F;
constexpr double kUntouched = 77;
constexpr DeviceType kCuda = DeviceType::cuda;

enum class Layout { dense, gaps, odd };  // odd: rows do not start on 16 bytes

struct Case {
  std::int64_t rows, columns;
  Layout layout;
};

std::string name_of(const Case& c) {
  const char* const layouts[] = {"dense", "gaps", "odd"};
  return std::to_string(c.rows) + "_" + std::to_string(c.columns) + "_" + layouts[static_cast<int>(c.layout)];
}

void PrintTo(const Case& c, std::ostream* out) { *out << name_of(c); }

class CudaRows : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    device_.type = kCuda;
    if (const std::string missing = backend(device_).missing(device_); !missing.empty()) GTEST_SKIP() << missing;
  }

  Tensor empty_rows(DType dtype) const {
    const auto [rows, columns, layout] = GetParam();
    const std::int64_t before = layout == Layout::odd ? 1 : 0;
    const std::int64_t gap = layout == Layout::dense ? 0 : layout == Layout::gaps ? 16 : 3;
    return Tensor::full({rows, columns + gap}, kUntouched, dtype, device_).slice(1, before, columns);
  }
  Tensor random(const Tensor& t, double limit) {
    fill_uniform(t, -limit, limit, 1, {RandomPurpose::initialisation, next_++});
    return t;
  }
  Tensor random_rows(DType dtype, double limit = 2) {
    const auto [rows, columns, layout] = GetParam();
    const Tensor dense = random(Tensor::empty({rows, columns}, dtype, device_), limit);
    if (layout == Layout::dense) return dense;
    const Tensor t = empty_rows(dtype);
    t.copy_from(dense);
    return t;
  }
  // The same rows as heads, between other columns.
  Tensor as_heads(const Tensor& rows, std::int64_t heads) const {
    const auto [count, columns, layout] = GetParam();
    const std::int64_t before = layout == Layout::odd ? 1 : 16;
    const Tensor all = Tensor::full({count / heads, heads * columns + 2 * before}, kUntouched, rows.dtype(), device_);
    const Tensor t = all.slice(1, before, heads * columns).view({count / heads, heads, columns});
    t.copy_from(rows.contiguous().view(t.shape()));
    return t;
  }
  Tensor random_vector(DType dtype) { return random(Tensor::empty({GetParam().columns}, dtype, device_), 2); }

  /// x and dx are heads where their number of them is not 0, without a residual.
  void check_rms_norm(DType dtype, bool with_residual, std::int64_t x_heads = 0, std::int64_t dx_heads = 0);
  void check_layer_norm();
  void check_softmax();

  Device device_;
  std::uint32_t next_ = 0;
};

std::vector<double> values(const Tensor& t) { return t.contiguous().to(DType::f64).to_vector<double>(); }

double rounding(DType dtype) { return dtype == DType::f32 ? 2e-5 : dtype == DType::bf16 ? 4e-3 : 1e-3; }

void expect_near(const char* what, const Tensor& t, const std::vector<double>& expected, double tolerance) {
  const std::vector<double> found = values(t);
  ASSERT_EQ(found.size(), expected.size());
  double largest = 1e-30;
  for (const double value : expected) largest = std::max(largest, std::abs(value));
  double error = 0;
  std::size_t where = 0;
  for (std::size_t i = 0; i < found.size(); ++i) {
    const double difference = std::abs(found[i] - expected[i]);
    if (!(difference <= error)) {  // NaN too
      error = difference;
      where = i;
      if (std::isnan(error)) break;
    }
  }
  EXPECT_LE(error / largest, tolerance) << what << ", element " << where;
}

void expect_gaps_untouched(const char* what, const Tensor& rows_or_heads) {
  const Tensor t =
      rows_or_heads.rank() == 3 ? rows_or_heads.view({rows_or_heads.size(0), -1}) : rows_or_heads;  // of tokens
  if (t.stride(0) == t.size(1)) return;
  const std::int64_t gap = t.stride(0) - t.size(1);
  const std::int64_t rows = t.size(0) - 1;  // behind the last one there may be nothing
  if (rows == 0) return;
  const Tensor all = t.as_strided({rows, t.stride(0)}, {t.stride(0), 1});
  for (const double value : values(all.slice(1, t.size(1), gap))) ASSERT_EQ(value, kUntouched) << what;
}

// Calls fn(offset of the row's first element) for each row.
template <class Fn>
void each_row(const Case& c, Fn&& fn) {
  for (std::int64_t row = 0; row < c.rows; ++row) {
    fn(static_cast<std::size_t>(row), static_cast<std::size_t>(row * c.columns));
  }
}

void CudaRows::check_rms_norm(DType dtype, bool with_residual, std::int64_t x_heads, std::int64_t dx_heads) {
  const Case& c = GetParam();
  const auto n = static_cast<std::size_t>(c.columns);
  const Tensor x = x_heads == 0 ? random_rows(dtype) : as_heads(random_rows(dtype), x_heads);
  const Tensor residual = with_residual ? random_rows(dtype) : Tensor();
  const Tensor weight = random_vector(dtype);
  const Tensor sum = with_residual ? empty_rows(dtype) : Tensor();
  const Tensor y = empty_rows(dtype);
  const Tensor rstd = Tensor::full({c.rows}, kUntouched, DType::f32, device_);
  ASSERT_EQ(rms_norm_forward.on(kCuda)(x, residual, weight, kEps, sum, y, rstd), nullptr);
  std::vector<double> xs = values(x);
  const std::vector<double> ws = values(weight);
  if (with_residual) {
    const std::vector<double> rs = values(residual);
    for (std::size_t i = 0; i < xs.size(); ++i) xs[i] += rs[i];
    expect_near("sum", sum, xs, rounding(dtype));
    expect_gaps_untouched("sum", sum);
    xs = values(sum);
  }
  std::vector<double> scales(static_cast<std::size_t>(c.rows));
  std::vector<double> ys(xs.size());
  each_row(c, [&](std::size_t row, std::size_t at) {
    double squares = 0;
    for (std::size_t i = 0; i < n; ++i) squares += xs[at + i] * xs[at + i];
    scales[row] = 1 / std::sqrt(squares / static_cast<double>(n) + kEps);
    for (std::size_t i = 0; i < n; ++i) ys[at + i] = xs[at + i] * scales[row] * ws[i];
  });
  expect_near("y", y, ys, rounding(dtype));
  expect_near("rstd", rstd, scales, 1e-6);
  expect_gaps_untouched("y", y);

  const Tensor in = with_residual ? sum : x;
  const Tensor dy = random_rows(dtype);
  const Tensor dsum = with_residual ? random_rows(dtype) : Tensor();
  const Tensor dx = dx_heads == 0 ? empty_rows(dtype) : as_heads(empty_rows(dtype), dx_heads);
  const Tensor dweight = Tensor::full({c.columns}, kUntouched, DType::f32, device_);
  ASSERT_EQ(rms_norm_backward.on(kCuda)(dy, dsum, in, weight, rstd, dx, dweight), nullptr);
  const std::vector<double> gs = values(dy);
  std::vector<double> dxs = with_residual ? values(dsum) : std::vector<double>(xs.size());
  std::vector<double> dws(n);
  each_row(c, [&](std::size_t row, std::size_t at) {
    const double scale = scales[row];
    double dot = 0;
    for (std::size_t i = 0; i < n; ++i) {
      dot += gs[at + i] * ws[i] * xs[at + i];
      dws[i] += gs[at + i] * xs[at + i] * scale;
    }
    const double pull = dot * scale * scale * scale / static_cast<double>(n);
    for (std::size_t i = 0; i < n; ++i) dxs[at + i] += gs[at + i] * ws[i] * scale - xs[at + i] * pull;
  });
  // One column: x / |x| has no slope, and dx is all cancellation.
  if (c.columns > 1) expect_near("dx", dx, dxs, rounding(dtype));
  expect_near("dweight", dweight, dws, 1e-5);
  expect_gaps_untouched("dx", dx);
}

TEST_P(CudaRows, RmsNorm) {
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    for (const bool with_residual : {false, true}) {
      SCOPED_TRACE(std::string(to_string(dtype)) + (with_residual ? ", residual" : ""));
      check_rms_norm(dtype, with_residual);
    }
  }
}

class CudaHeads : public CudaRows {};

TEST_P(CudaHeads, RmsNorm) {
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    for (const std::int64_t heads : {1, 3, 8, 12}) {
      SCOPED_TRACE(std::string(to_string(dtype)) + ", heads " + std::to_string(heads));
      check_rms_norm(dtype, false, heads, heads);
      check_rms_norm(dtype, false, heads, 0);
      check_rms_norm(dtype, false, 0, heads);
    }
  }
}

void CudaRows::check_layer_norm() {
  const Case& c = GetParam();
  if (c.columns == 1) return;  // all cancellation
  const auto n = static_cast<std::size_t>(c.columns);
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    for (const bool with_bias : {false, true}) {
      SCOPED_TRACE(std::string(to_string(dtype)) + (with_bias ? ", bias" : ""));
      const Tensor x = random_rows(dtype);
      const Tensor weight = random_vector(dtype);
      const Tensor bias = with_bias ? random_vector(dtype) : Tensor();
      const Tensor y = empty_rows(dtype);
      const Tensor dy = random_rows(dtype);
      const Tensor dx = empty_rows(dtype);
      const Tensor stats = Tensor::full({2, c.rows}, kUntouched, DType::f32, device_);
      const Tensor dparams = Tensor::full({2, c.columns}, kUntouched, DType::f32, device_);
      ASSERT_EQ(layer_norm_forward.on(kCuda)(x, Tensor(), weight, bias, kEps, Tensor(), y, stats), nullptr);
      ASSERT_EQ(layer_norm_backward.on(kCuda)(dy, x, weight, stats, dx, dparams), nullptr);
      const std::vector<double> xs = values(x);
      const std::vector<double> ws = values(weight);
      const std::vector<double> bs = with_bias ? values(bias) : std::vector<double>(n);
      const std::vector<double> gs = values(dy);
      std::vector<double> ys(xs.size());
      std::vector<double> dxs(xs.size());
      std::vector<double> means(static_cast<std::size_t>(c.rows));
      std::vector<double> scales(means.size());
      std::vector<double> params(2 * n);
      const auto count = static_cast<double>(n);
      each_row(c, [&](std::size_t row, std::size_t at) {
        double mean = 0;
        for (std::size_t i = 0; i < n; ++i) mean += xs[at + i] / count;
        double variance = 0;
        for (std::size_t i = 0; i < n; ++i) variance += (xs[at + i] - mean) * (xs[at + i] - mean) / count;
        const double scale = 1 / std::sqrt(variance + kEps);
        means[row] = mean;
        scales[row] = scale;
        double centre = 0;
        double pull = 0;
        for (std::size_t i = 0; i < n; ++i) {
          const double unit = (xs[at + i] - mean) * scale;
          ys[at + i] = unit * ws[i] + bs[i];
          centre += gs[at + i] * ws[i] / count;
          pull += gs[at + i] * ws[i] * unit / count;
          params[i] += gs[at + i] * unit;
          params[n + i] += gs[at + i];
        }
        for (std::size_t i = 0; i < n; ++i) {
          dxs[at + i] = scale * (gs[at + i] * ws[i] - centre - (xs[at + i] - mean) * scale * pull);
        }
      });
      expect_near("y", y, ys, rounding(dtype));
      // A mean is used as x - mean: its error is judged by the row's spread, since of a mean near 0 any rounding is a
      // lot.
      const std::vector<double> found_means = values(stats.select(0, 0));
      ASSERT_EQ(found_means.size(), means.size());
      for (std::size_t row = 0; row < means.size(); ++row) {
        EXPECT_LE(std::abs(found_means[row] - means[row]), 1e-6 * (std::abs(means[row]) + 1 / scales[row]))
            << "mean " << row;
      }
      expect_near("rstd", stats.select(0, 1), scales, 1e-5);
      expect_near("dx", dx, dxs, rounding(dtype));
      expect_near("dparams", dparams, params, 1e-5);
      expect_gaps_untouched("y", y);
      expect_gaps_untouched("dx", dx);
    }
  }
}

TEST_P(CudaRows, LayerNorm) { check_layer_norm(); }

void CudaRows::check_softmax() {
  const Case& c = GetParam();
  const auto n = static_cast<std::size_t>(c.columns);
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    SCOPED_TRACE(std::string(to_string(dtype)));
    const Tensor x = random_rows(dtype, 8);
    if (c.columns > 8) x.slice(1, 2, 3).copy_from(Tensor::full({c.rows, 3}, -INFINITY, dtype, device_));
    const Tensor y = empty_rows(dtype);
    const Tensor dy = random_rows(dtype);
    const Tensor dx = empty_rows(dtype);
    ASSERT_EQ(softmax_forward.on(kCuda)(x, y), nullptr);
    ASSERT_EQ(softmax_backward.on(kCuda)(dy, y, dx), nullptr);
    const std::vector<double> xs = values(x);
    const std::vector<double> found = values(y);
    const std::vector<double> gs = values(dy);
    std::vector<double> ys(xs.size());
    std::vector<double> dxs(xs.size());
    each_row(c, [&](std::size_t, std::size_t at) {
      double largest = -INFINITY;
      for (std::size_t i = 0; i < n; ++i) largest = std::max(largest, xs[at + i]);
      double total = 0;
      for (std::size_t i = 0; i < n; ++i) total += std::exp(xs[at + i] - largest);
      double dot = 0;
      for (std::size_t i = 0; i < n; ++i) {
        ys[at + i] = std::exp(xs[at + i] - largest) / total;
        dot += found[at + i] * gs[at + i];
      }
      for (std::size_t i = 0; i < n; ++i) dxs[at + i] = found[at + i] * (gs[at + i] - dot);
    });
    expect_near("y", y, ys, rounding(dtype));
    expect_near("dx", dx, dxs, rounding(dtype));
    expect_gaps_untouched("y", y);
    expect_gaps_untouched("dx", dx);
  }
}

TEST_P(CudaRows, Softmax) { check_softmax(); }

// By the kernels for many rows, however few there are.
class CudaRowsOfAnyBatch : public CudaRows {};

TEST_P(CudaRowsOfAnyBatch, MatchSumsInDouble) {
  const BatchInvariance scope;
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const bool with_residual : {false, true}) check_rms_norm(dtype, with_residual);
  }
  check_layer_norm();
  check_softmax();
}

TEST_P(CudaRows, SoftmaxOfRowsWithoutAResultIsNaN) {
  const Case& c = GetParam();
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    for (const double value : {static_cast<double>(INFINITY), static_cast<double>(NAN)}) {
      const Tensor x = random_rows(dtype);
      const Tensor y = empty_rows(dtype);
      x.slice(1, c.columns / 2, 1).copy_from(Tensor::full({c.rows, 1}, value, dtype, device_));
      ASSERT_EQ(softmax_forward.on(kCuda)(x, y), nullptr);
      for (const double found : values(y)) ASSERT_TRUE(std::isnan(found));
    }
    const Tensor y = empty_rows(dtype);
    const Tensor x = empty_rows(dtype);
    x.copy_from(Tensor::full(x.shape(), -INFINITY, dtype, device_));
    ASSERT_EQ(softmax_forward.on(kCuda)(x, y), nullptr);
    for (const double found : values(y)) ASSERT_TRUE(std::isnan(found));
  }
}

// Numbers that vary little beside their size, the first ones of a row around another value than the rest.
TEST_P(CudaRows, LayerNormOfNumbersFarFromZero) {
  const Case& c = GetParam();
  const auto n = static_cast<std::size_t>(c.columns);
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    SCOPED_TRACE(std::string(to_string(dtype)));
    std::vector<float> numbers(static_cast<std::size_t>(c.rows) * n);
    const std::vector<double> noise = values(random_rows(DType::f32));
    for (std::size_t i = 0; i < numbers.size(); ++i) {
      numbers[i] = static_cast<float>((i % n < n / 16 ? 150 : 100) + noise[i]);
    }
    const Tensor x = empty_rows(dtype);
    x.copy_from(Tensor::from(numbers, {c.rows, c.columns}).to(device_).to(dtype));
    const Tensor y = empty_rows(dtype);
    const Tensor weight = Tensor::full({c.columns}, 1, dtype, device_);
    const Tensor stats = Tensor::full({2, c.rows}, kUntouched, DType::f32, device_);
    ASSERT_EQ(layer_norm_forward.on(kCuda)(x, Tensor(), weight, Tensor(), kEps, Tensor(), y, stats), nullptr);
    const std::vector<double> xs = values(x);
    std::vector<double> ys(xs.size());
    std::vector<double> scales(static_cast<std::size_t>(c.rows));
    each_row(c, [&](std::size_t row, std::size_t at) {
      double mean = 0;
      for (std::size_t i = 0; i < n; ++i) mean += xs[at + i] / static_cast<double>(n);
      double variance = 0;
      for (std::size_t i = 0; i < n; ++i) variance += std::pow(xs[at + i] - mean, 2) / static_cast<double>(n);
      scales[row] = 1 / std::sqrt(variance + kEps);
      for (std::size_t i = 0; i < n; ++i) ys[at + i] = (xs[at + i] - mean) * scales[row];
    });
    expect_near("y", y, ys, rounding(dtype));
    expect_near("rstd", stats.select(0, 1), scales, 1e-5);
  }
}

// Clusters may hold several rows: the same ones in another order beside each other, or alone, give the same bytes.
TEST_P(CudaRows, LayerNormOfALongRowDependsOnNoOther) {
  const Case& c = GetParam();
  if (c.columns <= 16384) return;
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    SCOPED_TRACE(std::string(to_string(dtype)));
    const Tensor x = random_rows(dtype);
    const Tensor weight = random_vector(dtype);
    const Tensor bias = random_vector(dtype);
    const auto norm = [&](std::int64_t first, std::int64_t rows) {
      const Tensor y = empty_rows(dtype);
      const Tensor stats = Tensor::full({2, c.rows}, kUntouched, DType::f32, device_);
      EXPECT_EQ(layer_norm_forward.on(kCuda)(x.slice(0, first, rows), Tensor(), weight, bias, kEps, Tensor(),
                                             y.slice(0, first, rows), stats.slice(1, first, rows)),
                nullptr);
      return std::pair{values(y), values(stats)};
    };
    const auto all = norm(0, c.rows);
    EXPECT_EQ(norm(0, c.rows), all);
    if (c.rows == 1) continue;
    const auto [later, later_stats] = norm(1, c.rows - 1);  // beside the other neighbour
    const auto n = static_cast<std::size_t>(c.columns);
    const auto rows = static_cast<std::size_t>(c.rows);
    EXPECT_TRUE(std::equal(later.begin() + c.columns, later.end(), all.first.begin() + c.columns));
    EXPECT_EQ(std::count(later.begin(), later.begin() + c.columns, kUntouched), c.columns);
    for (std::size_t row = 1; row < rows; ++row) {
      EXPECT_EQ(later_stats[row], all.second[row]) << "mean " << row;
      EXPECT_EQ(later_stats[rows + row], all.second[rows + row]) << "rstd " << row;
    }
    const auto [first, first_stats] = norm(0, 1);
    EXPECT_TRUE(std::equal(first.begin(), first.begin() + c.columns, all.first.begin()));
    EXPECT_EQ(std::count(first.begin() + c.columns, first.end(), kUntouched),
              static_cast<std::ptrdiff_t>((rows - 1) * n));
    EXPECT_EQ(first_stats[0], all.second[0]);
    EXPECT_EQ(first_stats[1], kUntouched);
  }
}

// What leaves L2 first, and how many rows are in a block, is a matter of time alone.
TEST_P(CudaRows, IsTheSameHoweverL2IsUsed) {
  using cuda::Evict;
  const auto [rows, columns, layout] = GetParam();
  const Tensor x = random_rows(DType::bf16);
  const Tensor residual = random_rows(DType::bf16);
  const Tensor weight = random_vector(DType::bf16);
  const Tensor bias = random_vector(DType::bf16);
  const auto results = [&, rows = rows] {
    const Tensor rstd = Tensor::full({rows}, kUntouched, DType::f32, device_);
    const Tensor stats = Tensor::full({2, rows}, kUntouched, DType::f32, device_);
    std::vector<Tensor> ys;
    for (int i = 0; i < 5; ++i) ys.push_back(empty_rows(DType::bf16));
    EXPECT_EQ(rms_norm_forward.on(kCuda)(x, Tensor(), weight, kEps, Tensor(), ys[0], rstd), nullptr);
    EXPECT_EQ(rms_norm_forward.on(kCuda)(x, residual, weight, kEps, ys[1], ys[2], rstd), nullptr);
    EXPECT_EQ(layer_norm_forward.on(kCuda)(x, Tensor(), weight, bias, kEps, Tensor(), ys[3], stats), nullptr);
    EXPECT_EQ(softmax_forward.on(kCuda)(x, ys[4]), nullptr);
    std::vector<std::vector<double>> all = {values(rstd), values(stats)};
    for (const Tensor& y : ys) all.push_back(values(y));
    return all;
  };
  const auto expected = results();
  for (const Evict reads : {Evict::usual, Evict::first, Evict::last}) {
    for (const Evict writes : {Evict::usual, Evict::first, Evict::last}) {
      const cuda::RowTrial trial({reads, writes});
      EXPECT_EQ(results(), expected) << static_cast<int>(reads) << ", " << static_cast<int>(writes);
    }
  }
  const std::int64_t packs = (columns + 7) / 8;
  const auto& device = cuda::info(x.device().index);
  cuda::RowPlan plan = cuda::plan_rows(rows, packs, cuda::kOneInput, device);
  if (layout == Layout::odd || columns % 8 != 0 || plan.packs != 4 || plan.team != 32) return;
  for (const unsigned teams : {1U, 2U}) {
    plan.teams = teams;
    const cuda::RowTrial trial({}, plan);
    EXPECT_EQ(results(), expected) << teams << " rows in a block";
  }
}

INSTANTIATE_TEST_SUITE_P(
    Sizes, CudaRows,
    testing::Values(
        Case{1, 1, Layout::dense}, Case{3, 7, Layout::dense}, Case{33, 40, Layout::odd}, Case{130, 16, Layout::gaps},
        Case{33, 48, Layout::dense}, Case{9, 896, Layout::gaps}, Case{5, 1000, Layout::odd},
        Case{65, 1024, Layout::dense},                                   // parts of a warp
        Case{1200, 2048, Layout::gaps},                                  // a warp
        Case{601, 1024, Layout::dense}, Case{1000, 2040, Layout::gaps},  // a warp, few rows
        Case{7, 4096, Layout::dense}, Case{3, 16384, Layout::gaps},      // few rows
        Case{700, 5120, Layout::dense}, Case{400, 8192, Layout::gaps}, Case{300, 16384, Layout::dense},  // a block
        Case{5, 16392, Layout::gaps}, Case{300, 24584, Layout::gaps},   // a cluster of 2
        Case{2, 32768, Layout::dense}, Case{1, 24576, Layout::gaps},    // and few rows
        Case{3, 32768, Layout::gaps}, Case{129, 65536, Layout::dense},  // an odd one beside none
        Case{3, 131072, Layout::gaps}, Case{2, 65552, Layout::dense}, Case{150, 50000, Layout::dense},  // of 4
        Case{131, 40008, Layout::gaps}, Case{67, 65544, Layout::gaps},  // with less in the last block
        Case{2, 40008, Layout::gaps}, Case{80, 131072, Layout::dense}, Case{1, 151936, Layout::dense},  // of 8
        Case{35, 131080, Layout::gaps},                                                                 // of 8, in bf16
        Case{4000, 1024, Layout::dense}, Case{500, 8200, Layout::gaps},  // more than L2 holds
        Case{3, 50257, Layout::dense}, Case{2, 262144, Layout::dense}),  // in several passes
    [](const auto& param) { return name_of(param.param); });

INSTANTIATE_TEST_SUITE_P(Sizes, CudaRowsOfAnyBatch,
                         testing::Values(Case{7, 4096, Layout::dense}, Case{3, 16384, Layout::gaps}),
                         [](const auto& param) { return name_of(param.param); });

INSTANTIATE_TEST_SUITE_P(Sizes, CudaHeads,
                         testing::Values(Case{24, 128, Layout::dense}, Case{48, 7, Layout::dense},
                                         Case{72, 40, Layout::odd}, Case{2400, 64, Layout::gaps},
                                         Case{120, 256, Layout::dense}, Case{24, 1024, Layout::dense},
                                         Case{48, 1032, Layout::gaps},  // in several passes
                                         Case{24000, 128, Layout::dense}),
                         [](const auto& param) { return name_of(param.param); });

TEST(Divisor, DividesLikeTheLanguage) {
  constexpr std::uint32_t kEnd = 1U << 31;
  for (std::uint32_t by : {1U, 2U, 3U, 5U, 7U, 12U, 16U, 40U, 641U, 65535U, 65537U, (1U << 30) + 1, kEnd - 1, kEnd}) {
    const cuda::Divisor divisor(by);
    EXPECT_EQ(divisor.value(), by);
    const auto check = [&](std::uint64_t number) {
      if (number >= kEnd) return;
      ASSERT_EQ(divisor.divide(static_cast<std::uint32_t>(number)), number / by) << number << " / " << by;
    };
    for (std::uint64_t number = 0; number < 1000; ++number) check(number);
    for (std::uint64_t times = 1; times < kEnd; times += 1 + times / 50) {  // around multiples
      check(times * by - 1);
      check(times * by);
      check(kEnd - times);
    }
    check(kEnd / by * std::uint64_t{by} - 1);
  }
}

// As Team of rows.cuh shares a row out.
TEST(RowPlan, GivesEveryPackToOneThread) {
  using namespace cuda;
  DeviceInfo device;
  device.multiprocessors = 132;
  device.l2_bytes = std::size_t{50} << 20;
  std::size_t in_registers = 0;
  for (const int major : {8, 9}) {
    device.major = major;
    for (const RowKernels& kernels : {kOneInput, kTwoWeights, kTwoInputs, kBackward, kHeads}) {
      for (const std::int64_t rows : {1, 64, 527, 528, 1056, 1057, 100000}) {
        for (std::int64_t length = 1; length < 40000; length += 1 + length / 7) {
          const RowPlan plan = plan_rows(rows, length, kernels, device);
          if (plan.packs == 0) continue;  // read more than once
          ++in_registers;
          SCOPED_TRACE(std::to_string(rows) + " rows of " + std::to_string(length) + " packs");
          const std::int64_t part = (length + plan.cluster - 1) / plan.cluster;
          std::vector<int> owners(static_cast<std::size_t>(length));
          for (unsigned rank = 0; rank < plan.cluster; ++rank) {
            for (unsigned thread = 0; thread < plan.team; ++thread) {
              const std::int64_t first = thread + rank * part;
              const std::int64_t left = std::min(part - thread, length - first);
              for (int p = 0; p < plan.packs; ++p) {
                const std::int64_t offset = std::int64_t{p} * plan.team;
                if (offset < left) ++owners[static_cast<std::size_t>(first + offset)];
              }
            }
          }
          EXPECT_EQ(std::count(owners.begin(), owners.end(), 1), length);
          const bool warp = plan.span == Span::warp;
          const bool many = plan.span == Span::cluster || plan.packs == kernels.many;
          const int most = warp ? RowKernels::brief_threads : many ? RowKernels::many_threads : RowKernels::few_threads;
          EXPECT_LE(plan.packs * plan.rows, std::max({kernels.many, kernels.brief, kernels.brief_2}));
          EXPECT_LE(static_cast<int>(plan.team * plan.teams), most);
          EXPECT_TRUE(!warp || plan.team * plan.teams == 128);
          EXPECT_TRUE(warp ? plan.team <= 32 && 32 % plan.team == 0 : plan.team % 32 == 0);
          EXPECT_TRUE(plan.span == Span::cluster ? major >= 9 && plan.cluster <= 8 : plan.cluster == 1);
        }
      }
    }
  }
  EXPECT_GT(in_registers, 1000U);
}

TEST(RowPlan, LeavesInL2WhatItCanHold) {
  using namespace cuda;
  DeviceInfo device;
  device.l2_bytes = 1000;
  for (const bool forward : {false, true}) {
    EXPECT_EQ(plan_marks(1000, forward, device).reads, Evict::usual);
    EXPECT_EQ(plan_marks(1000, forward, device).writes, Evict::usual);
    EXPECT_EQ(plan_marks(1001, forward, device).reads, Evict::first);
    EXPECT_EQ(plan_marks(4000, forward, device).writes, Evict::first);
    EXPECT_EQ(plan_marks(4001, forward, device).reads, forward ? Evict::last : Evict::first);
    EXPECT_EQ(plan_marks(4001, forward, device).writes, forward ? Evict::usual : Evict::first);
  }
}

}  // namespace
}  // namespace wick
