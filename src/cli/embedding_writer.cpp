#include "cli/embedding_writer.h"

#include <algorithm>
#include <cmath>
#include <span>

#include "cli/cli.h"
#include "core/fail.h"
#include "core/parallel.h"
#include "io/npy.h"

namespace wick::cli {
namespace {

// 128 bytes in front of the rows, whatever the numbers are: spaces behind a header are part of the format.
std::string safetensors_header(std::int64_t rows, std::int64_t columns) {
  constexpr std::uint64_t kLength = 120;
  std::string out(8, '\0');
  out[0] = static_cast<char>(kLength);
  out += fmt::format(R"({{"embeddings":{{"dtype":"F32","shape":[{},{}],"data_offsets":[0,{}]}}}})", rows, columns,
                     rows * columns * 4);
  out.resize(8 + kLength, ' ');
  return out;
}

void append_json(std::string& out, std::span<const float> row) {
  out += "{\"embedding\": [";
  for (std::size_t i = 0; i < row.size(); ++i) {
    if (i > 0) out += ", ";
    if (std::isfinite(row[i])) {
      fmt::format_to(std::back_inserter(out), "{}", row[i]);  // the fewest digits that give this float again
    } else {
      out += std::isnan(row[i]) ? "NaN" : row[i] > 0 ? "Infinity" : "-Infinity";  // as Python's json does
    }
  }
  out += "]}\n";
}

}  // namespace

EmbeddingWriter::EmbeddingWriter(EmbeddingFormat format, const std::string& path, std::int64_t columns)
    : format_(format), columns_(columns) {
  if (!path.empty()) {
    file_.emplace(path);
  } else if (format == EmbeddingFormat::npy || format == EmbeddingFormat::safetensors) {
    fail(ErrorCode::invalid_argument,
         "--format {} begins with the number of rows, which is known at the end: it needs --output FILE",
         format == EmbeddingFormat::npy ? "npy" : "safetensors");
  }
  put(header());
}

std::string EmbeddingWriter::header() const {
  if (format_ == EmbeddingFormat::npy) return npy_header(rows_, columns_);
  if (format_ == EmbeddingFormat::safetensors) return safetensors_header(rows_, columns_);
  return {};
}

void EmbeddingWriter::put(std::string_view text) {
  if (text.empty()) return;
  if (file_) {
    file_->write(text);
  } else {
    print(std::string(text));
  }
}

void EmbeddingWriter::write(const Tensor& rows) {
  const std::span all(rows.data<float>(), static_cast<std::size_t>(rows.numel()));
  rows_ += rows.size(0);
  if (format_ != EmbeddingFormat::jsonl) {
    return put({reinterpret_cast<const char*>(all.data()), all.size_bytes()});
  }
  constexpr std::int64_t kPiece = 64;  // rows that a thread writes out at a time
  const std::int64_t count = rows.size(0);
  std::vector<std::string> pieces(static_cast<std::size_t>((count + kPiece - 1) / kPiece));
  parallel_each(std::ssize(pieces), [&](std::int64_t piece) {
    for (std::int64_t row = piece * kPiece; row < std::min(count, (piece + 1) * kPiece); ++row) {
      append_json(pieces[static_cast<std::size_t>(piece)],
                  all.subspan(static_cast<std::size_t>(row * columns_), static_cast<std::size_t>(columns_)));
    }
  });
  for (const std::string& piece : pieces) put(piece);
}

void EmbeddingWriter::finish() {
  if (!file_) return;
  file_->write_over(0, header());
  file_->commit();
}

}  // namespace wick::cli
