#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "core/parallel.h"

namespace wick {

/// total[columns] = the sum over row blocks of what body(begin, end, partial) adds into a zeroed partial. Blocks depend
/// on `rows` alone and are summed in order, so the result has the same bytes on any number of threads.
template <class Body>
void reduce_rows(std::int64_t rows, std::int64_t columns, float* total, const Body& body) {
  constexpr std::int64_t kMaxBlocks = 32;
  const std::int64_t block = std::max<std::int64_t>(16, (rows + kMaxBlocks - 1) / kMaxBlocks);
  const std::int64_t blocks = (rows + block - 1) / block;
  std::vector<float> partial(static_cast<std::size_t>(blocks * columns), 0.0F);
  parallel_for(blocks, std::max<std::int64_t>(1, rows_per_piece(columns) / block),
               [&](std::int64_t begin, std::int64_t end) {
                 for (std::int64_t b = begin; b < end; ++b)
                   body(b * block, std::min(rows, (b + 1) * block), partial.data() + b * columns);
               });
  std::fill_n(total, columns, 0.0F);
  for (std::int64_t b = 0; b < blocks; ++b) {
    for (std::int64_t i = 0; i < columns; ++i) total[i] += partial[static_cast<std::size_t>(b * columns + i)];
  }
}

}  // namespace wick
