// EmbeddingIndex against brute force in float64.
#include "wick/search.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>

#include "io/npy.h"
#include "io_test_util.h"
#include "wick/safetensors.h"

namespace wick::test {
namespace {

std::vector<float> random_values(std::size_t count, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<float> out(count);
  for (float& value : out) value = normal(generator);
  return out;
}

// The score of each row, in float64, of values as the index holds them.
std::vector<double> exact_scores(const std::vector<float>& rows, std::span<const float> query, Similarity similarity) {
  std::vector<double> out;
  const std::size_t n = query.size();
  double own = 0;
  for (const double v : query) own += v * v;
  for (std::size_t at = 0; at < rows.size(); at += n) {
    double dot = 0;
    double squares = 0;
    for (std::size_t i = 0; i < n; ++i) {
      dot += static_cast<double>(rows[at + i]) * query[i];
      squares += static_cast<double>(rows[at + i]) * rows[at + i];
    }
    out.push_back(similarity == Similarity::dot ? dot : dot / std::sqrt(squares * own));
  }
  return out;
}

// Each hit has its row's score, none that was left out is better by more than rounding, and hits are in order.
void expect_exact(const std::vector<SearchHit>& hits, const std::vector<double>& exact, std::size_t k) {
  ASSERT_EQ(hits.size(), std::min(k, exact.size()));
  std::vector<double> sorted = exact;
  std::ranges::sort(sorted, std::greater());
  for (std::size_t i = 0; i < hits.size(); ++i) {
    EXPECT_NEAR(hits[i].score, exact[static_cast<std::size_t>(hits[i].row)], 2e-5) << i;
    EXPECT_NEAR(hits[i].score, sorted[i], 2e-5) << i;
    if (i > 0) {
      EXPECT_TRUE(hits[i - 1].score > hits[i].score ||
                  (hits[i - 1].score == hits[i].score && hits[i - 1].row < hits[i].row));
    }
  }
}

TEST(Search, FindsWhatBruteForceFinds) {
  for (const std::int64_t columns : {1, 3, 16, 31, 64, 384}) {
    for (const std::int64_t count : {1, 5, 1000}) {
      for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
        const auto seed = static_cast<unsigned>(columns * 7 + count);
        const std::vector<float> values = random_values(static_cast<std::size_t>(columns * count), seed);
        const Tensor rows = Tensor::from(values, {count, columns}).to(dtype);
        const std::vector<float> held = rows.to(DType::f32).to_vector<float>();
        const std::int64_t queries = 6;
        std::vector<float> asked = random_values(static_cast<std::size_t>(columns * queries), seed + 1);
        for (float& value : asked) value *= 0.2F;
        const EmbeddingIndex index(rows);
        for (const Similarity similarity : {Similarity::cosine, Similarity::dot}) {
          const auto found = index.search(Tensor::from(asked, {queries, columns}), 10, similarity);
          ASSERT_EQ(found.size(), 6U);
          for (std::size_t q = 0; q < found.size(); ++q) {
            const std::span query(asked.data() + q * static_cast<std::size_t>(columns),
                                  static_cast<std::size_t>(columns));
            expect_exact(found[q], exact_scores(held, query, similarity), 10);
          }
        }
      }
    }
  }
}

TEST(Search, GivesTheSameOnAnyNumberOfThreadsAndBesideAnyQueries) {
  const Tensor rows = Tensor::from(random_values(5000 * 48, 3), {5000, 48});
  const Tensor queries = Tensor::from(random_values(130 * 48, 4), {130, 48});
  const EmbeddingIndex index(rows);
  const int threads = omp_get_max_threads();
  const auto all = index.search(queries, 7);
  ASSERT_EQ(all.size(), 130U);
  omp_set_num_threads(5);
  EXPECT_EQ(index.search(queries, 7), all);
  omp_set_num_threads(1);
  EXPECT_EQ(index.search(queries, 7), all);
  omp_set_num_threads(threads);
  for (const std::int64_t q : {0, 63, 64, 129}) {
    EXPECT_EQ(index.search(queries.slice(0, q, 1), 7)[0], all[static_cast<std::size_t>(q)]);
  }
}

TEST(Search, OfEqualRowsTheFirstComesFirst) {
  std::vector<float> values;
  for (int i = 0; i < 3000; ++i) values.insert(values.end(), {1, static_cast<float>(i % 3), 2, 0, 1});
  const EmbeddingIndex index(Tensor::from(values, {3000, 5}));
  const auto hits = index.search(Tensor::from(std::vector<float>{0, 1, 0, 0, 0}, {1, 5}), 4, Similarity::dot)[0];
  EXPECT_EQ(hits, (std::vector<SearchHit>{{2, 2}, {5, 2}, {8, 2}, {11, 2}}));
}

TEST(Search, LeavesOutWhatIsNoNumberAndCountsZerosAsZero) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const EmbeddingIndex index(Tensor::from(std::vector<float>{nan, 1, 0, 0, 1, 0, -1, 0}, {4, 2}));
  const Tensor query = Tensor::from(std::vector<float>{2, 0}, {1, 2});
  EXPECT_EQ(index.search(query, 10)[0], (std::vector<SearchHit>{{2, 1}, {1, 0}, {3, -1}}));
  EXPECT_EQ(index.search(query, 2)[0], (std::vector<SearchHit>{{2, 1}, {1, 0}}));
  EXPECT_TRUE(index.search(Tensor::from(std::vector<float>{nan, 0}, {1, 2}), 3)[0].empty());
  const EmbeddingIndex none(Tensor::empty({0, 2}, DType::f32));
  EXPECT_TRUE(none.search(query, 3)[0].empty());
  EXPECT_TRUE(index.search(Tensor::empty({0, 2}, DType::f32), 3).empty());
}

TEST(Search, RefusesWhatDoesNotFit) {
  const EmbeddingIndex index(Tensor::zeros({3, 4}, DType::f32));
  expect_refused("queries are f32 [1, 5], expected f32 [queries, 4]", [&] {
    (void)index.search(Tensor::zeros({1, 5}, DType::f32), 1);
  });
  expect_refused("queries are f64 [1, 4]", [&] { (void)index.search(Tensor::zeros({1, 4}, DType::f64), 1); });
  expect_refused("k is 0", [&] { (void)index.search(Tensor::zeros({1, 4}, DType::f32), 0); });
  expect_refused("f32 [4], expected [rows, columns]", [] { EmbeddingIndex(Tensor::zeros({4}, DType::f32)); });
  expect_refused("f64 [2, 2], expected f32, f16 or bf16", [] { EmbeddingIndex(Tensor::zeros({2, 2}, DType::f64)); });
  expect_refused("must be dense", [] { EmbeddingIndex(Tensor::zeros({2, 2}, DType::f32).transpose(0, 1)); });
}

TEST(Search, OpensFiles) {
  const TempDir dir;
  const Tensor rows = Tensor::from(random_values(20 * 6, 9), {20, 6});
  const Tensor queries = Tensor::from(random_values(2 * 6, 10), {2, 6});
  const auto expected = EmbeddingIndex(rows).search(queries, 20);
  const std::string_view bytes(reinterpret_cast<const char*>(rows.data<float>()), 480);
  write_file(dir / "a.npy", npy_header(20, 6).append(bytes));
  const EmbeddingIndex npy = EmbeddingIndex::open(dir / "a.npy");
  EXPECT_EQ(npy.rows(), 20);
  EXPECT_EQ(npy.columns(), 6);
  EXPECT_EQ(npy.search(queries, 20), expected);
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    const Tensor held = rows.to(dtype);
    const std::vector<SafetensorsEntry> one = {make_entry("anything", held)};
    write_safetensors(dir / "one", one);
    const EmbeddingIndex index = EmbeddingIndex::open(dir / "one");
    EXPECT_EQ(index.dtype(), dtype);
    EXPECT_EQ(index.search(queries, 20), EmbeddingIndex(held).search(queries, 20));
  }
  const std::vector<SafetensorsEntry> two = {make_entry("embeddings", rows), make_entry("other", queries)};
  write_safetensors(dir / "two", two);
  EXPECT_EQ(EmbeddingIndex::open(dir / "two").search(queries, 20), expected);
}

TEST(Search, RefusesFilesThatHoldNoMatrix) {
  const TempDir dir;
  const auto refused = [&](ErrorCode code, std::string_view part) {
    expect_error(code, part, [&] { (void)EmbeddingIndex::open(dir / "f"); });
  };
  expect_error(ErrorCode::io, "cannot open", [&] { (void)EmbeddingIndex::open(dir / "none"); });
  write_file(dir / "f", "");
  EXPECT_THROW((void)EmbeddingIndex::open(dir / "f"), Error);
  write_file(dir / "f", npy_header(2, 0));
  refused(ErrorCode::format, "expected [rows, columns]");
  write_file(dir / "f", npy_header(2, 3) + "short");
  refused(ErrorCode::format, "needs 24 bytes, has 5");
  const Tensor rows = Tensor::zeros({2, 2}, DType::f32);
  const std::vector<SafetensorsEntry> two = {make_entry("a", rows), make_entry("b", rows)};
  write_safetensors(dir / "f", two);
  refused(ErrorCode::format, "none is called \"embeddings\"");
  const std::vector<SafetensorsEntry> flat = {make_entry("a", Tensor::zeros({4}, DType::f32))};
  write_safetensors(dir / "f", flat);
  refused(ErrorCode::format, "f32 [4], expected [rows, columns]");
  const std::vector<SafetensorsEntry> wide = {make_entry("a", Tensor::zeros({4, 1}, DType::f64))};
  write_safetensors(dir / "f", wide);
  refused(ErrorCode::unsupported, "f64 [4, 1], expected f32, f16 or bf16");
}

}  // namespace
}  // namespace wick::test
