#include "wick/search.h"

#include <algorithm>
#include <cmath>
#include <mutex>
#include <utility>

#include "core/fail.h"
#include "core/parallel.h"
#include "embed/search_cpu.h"
#include "io/npy.h"
#include "io/quote.h"
#include "wick/safetensors.h"

namespace wick {
namespace {

constexpr std::int64_t kQueriesAtOnce = 64;
constexpr std::int64_t kRowsAtOnce = 64;

bool better(const SearchHit& a, const SearchHit& b) { return a.score != b.score ? a.score > b.score : a.row < b.row; }

// The best k of what it was given: a heap with the worst on top.
class BestHits {
 public:
  void add(const SearchHit& hit, std::size_t k) {
    if (hits_.size() == k) {
      if (!better(hit, hits_.front())) return;
      std::ranges::pop_heap(hits_, better);
      hits_.pop_back();
    }
    hits_.push_back(hit);
    std::ranges::push_heap(hits_, better);
  }
  void add(const BestHits& others, std::size_t k) {
    for (const SearchHit& hit : others.hits_) add(hit, k);
  }
  std::vector<SearchHit> sorted() && {
    std::ranges::sort(hits_, better);
    return std::move(hits_);
  }

 private:
  std::vector<SearchHit> hits_;
};

// 1 / |x|, or 0 for a vector of zeros: its cosine with anything is then 0.
float inverse_length(float squares) { return squares == 0 ? 0.0F : 1.0F / std::sqrt(squares); }

void check_matrix(const Tensor& matrix, ErrorCode code, const std::string& where) {
  if (!matrix.defined() || matrix.rank() != 2 || matrix.size(1) < 1) {
    fail(code, "{} is {}, expected [rows, columns]", where, describe(matrix));
  }
  if (matrix.dtype() != DType::f32 && matrix.dtype() != DType::f16 && matrix.dtype() != DType::bf16) {
    fail(code == ErrorCode::format ? ErrorCode::unsupported : code, "{} is {}, expected f32, f16 or bf16", where,
         describe(matrix));
  }
}

Tensor load_safetensors_matrix(const std::filesystem::path& path) {
  const SafetensorsFile file = SafetensorsFile::open(path);
  const SafetensorsEntry* entry = file.find("embeddings");
  if (entry == nullptr && file.entries().size() == 1) entry = &file.entries().front();
  if (entry == nullptr) {
    fail(ErrorCode::format, "{}: has {} tensors and none is called \"embeddings\"", path.string(),
         file.entries().size());
  }
  return load_tensor(*entry);
}

}  // namespace

EmbeddingIndex EmbeddingIndex::open(const std::filesystem::path& path) {
  Tensor matrix = is_npy(path) ? load_npy(path) : load_safetensors_matrix(path);
  check_matrix(matrix, ErrorCode::format, path.string());
  return EmbeddingIndex(std::move(matrix));
}

EmbeddingIndex::EmbeddingIndex(Tensor embeddings) : embeddings_(std::move(embeddings)) {
  check_matrix(embeddings_, ErrorCode::invalid_argument, "[EmbeddingIndex] the matrix");
  if (!embeddings_.is_contiguous() || embeddings_.device() != Device::cpu()) {
    fail(ErrorCode::invalid_argument, "[EmbeddingIndex] the matrix must be dense and on the host");
  }
}

std::vector<std::vector<SearchHit>> EmbeddingIndex::search(const Tensor& queries, std::int64_t k,
                                                           Similarity similarity) const {
  if (!queries.defined() || queries.rank() != 2 || queries.size(1) != columns() || queries.dtype() != DType::f32 ||
      !queries.is_contiguous() || queries.device() != Device::cpu()) {
    fail(ErrorCode::invalid_argument, "[search] queries are {}, expected f32 [queries, {}], dense on the host",
         describe(queries), columns());
  }
  if (k < 1) fail(ErrorCode::invalid_argument, "[search] k is {}, expected at least 1", k);
  const auto wanted = static_cast<std::size_t>(std::min(k, rows()));
  std::vector<std::vector<SearchHit>> results;
  for (std::int64_t first = 0; first < queries.size(0); first += kQueriesAtOnce) {
    const auto count = static_cast<std::size_t>(std::min(kQueriesAtOnce, queries.size(0) - first));
    const Tensor some = queries.slice(0, first, static_cast<std::int64_t>(count));
    std::vector<float> query_lengths(count);
    for (std::size_t q = 0; q < count; ++q) {
      float unused = 0;
      row_products(some, static_cast<std::int64_t>(q), 1, nullptr, 0, &unused, 1, &query_lengths[q]);
      query_lengths[q] = inverse_length(query_lengths[q]);
    }
    std::vector<BestHits> best(count);
    std::mutex mutex;
    parallel_for(rows(), rows_per_piece(columns()), [&](std::int64_t begin, std::int64_t end) {
      std::vector<BestHits> own(count);
      std::vector<float> scores(count * kRowsAtOnce);
      float squares[kRowsAtOnce];
      for (std::int64_t row = begin; row < end; row += kRowsAtOnce) {
        const std::int64_t block = std::min(kRowsAtOnce, end - row);
        row_products(embeddings_, row, block, some.data<float>(), count, scores.data(), kRowsAtOnce, squares);
        for (std::int64_t r = 0; r < block; ++r) squares[r] = inverse_length(squares[r]);
        for (std::size_t q = 0; q < count; ++q) {
          for (std::int64_t r = 0; r < block; ++r) {
            float score = scores[q * kRowsAtOnce + static_cast<std::size_t>(r)];
            if (similarity == Similarity::cosine) score *= squares[r] * query_lengths[q];
            if (!std::isnan(score)) own[q].add({row + r, score}, wanted);
          }
        }
      }
      const std::lock_guard lock(mutex);
      for (std::size_t q = 0; q < count; ++q) best[q].add(own[q], wanted);
    });
    for (BestHits& hits : best) results.push_back(std::move(hits).sorted());
  }
  return results;
}

}  // namespace wick
