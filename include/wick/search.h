#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "wick/tensor.h"

namespace wick {

/// How near two vectors are.
enum class Similarity : std::uint8_t {
  cosine,  ///< of the angle between them, whatever their lengths (within float32's squares, 1e-19 to 1e19); 0 with
           ///< zeros
  dot      ///< their dot product: the same for vectors of length 1
};

struct SearchHit {
  std::int64_t row = 0;  ///< of the index, from 0
  float score = 0;

  friend bool operator==(const SearchHit&, const SearchHit&) = default;
};

/// Embeddings that can be searched: every row is looked at, so the hits are the true ones.
class EmbeddingIndex {
 public:
  /// A .npy file of float32 or float16 [rows, columns], or a safetensors file with one tensor [rows, columns], or one
  /// that is called "embeddings", of F32, F16 or BF16. It stays mapped: memory is what the system spends on its pages,
  /// and it must not be cut short meanwhile. Error(io) when it cannot be read, Error(format) when it is malformed or
  /// holds no such matrix, Error(unsupported) for other elements.
  static EmbeddingIndex open(const std::filesystem::path& path);
  /// Rows in memory: f32, f16 or bf16 [rows, columns], dense, on the host. Error(invalid_argument) otherwise.
  explicit EmbeddingIndex(Tensor embeddings);

  std::int64_t rows() const noexcept { return embeddings_.size(0); }
  std::int64_t columns() const noexcept { return embeddings_.size(1); }
  DType dtype() const noexcept { return embeddings_.dtype(); }

  /// For each row of queries, f32 [queries, columns()] dense on the host, its min(k, rows()) best rows, best first; of
  /// equal ones the first comes first. Rows whose score is not a number are left out. Scores are summed in float32, in
  /// an order that depends on the number of columns alone: not on the threads, the other queries or the other rows.
  /// Error(invalid_argument) for queries of another shape or dtype, or k < 1.
  std::vector<std::vector<SearchHit>> search(const Tensor& queries, std::int64_t k,
                                             Similarity similarity = Similarity::cosine) const;

 private:
  Tensor embeddings_;
};

}  // namespace wick
