#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "io/atomic_file.h"
#include "wick/tensor.h"

namespace wick::cli {

/// How embeddings are written.
enum class EmbeddingFormat : std::uint8_t {
  jsonl,       ///< {"embedding": [...]} on a line for each
  f32,         ///< rows of 32-bit floats, little-endian, one after another
  npy,         ///< one array [rows, columns] for numpy.load
  safetensors  ///< one tensor "embeddings" [rows, columns]
};

/// Rows of embeddings, as they come, to standard output or a file. The file appears whole, in finish(), or not at all.
class EmbeddingWriter {
 public:
  /// `path` empty: standard output. Error(invalid_argument) for npy and safetensors there: they begin with the number
  /// of rows, which is known at the end.
  EmbeddingWriter(EmbeddingFormat format, const std::string& path, std::int64_t columns);

  /// f32 [rows, columns], dense on the host.
  void write(const Tensor& rows);
  void finish();

 private:
  std::string header() const;
  void put(std::string_view text);

  EmbeddingFormat format_;
  std::int64_t columns_;
  std::int64_t rows_ = 0;
  std::optional<AtomicFile> file_;
};

}  // namespace wick::cli
