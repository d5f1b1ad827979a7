#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>

#include <omp.h>

namespace wick {

/// Calls body(begin, end) over a static partition of [0, count), on as many threads as there are pieces of at least
/// `grain`. The partition depends only on count, grain and the thread count, so results are reproducible. An exception
/// in a body is rethrown by the caller's thread. Nested calls run serially.
template <class Body>
void parallel_for(std::int64_t count, std::int64_t grain, const Body& body) {
  if (count <= 0) return;
  const std::int64_t pieces =
      std::min<std::int64_t>(omp_get_max_threads(), (count + grain - 1) / std::max<std::int64_t>(grain, 1));
  if (pieces <= 1 || omp_in_parallel() != 0) {
    body(std::int64_t{0}, count);
    return;
  }
  std::exception_ptr error;
#pragma omp parallel for num_threads(static_cast <int>(pieces)) schedule(static, 1)
  for (std::int64_t piece = 0; piece < pieces; ++piece) {
    try {
      body(count * piece / pieces, count * (piece + 1) / pieces);
    } catch (...) {
#pragma omp critical(wick_parallel_for_error)
      error = std::current_exception();
    }
  }
  if (error) std::rethrow_exception(error);
}

/// Calls body(i) once for each i in [0, count), on all threads: each takes the next one when it is done with one. For
/// pieces of unlike size, whose results do not depend on who computes them. Exceptions as above.
template <class Body>
void parallel_each(std::int64_t count, const Body& body) {
  std::atomic<std::int64_t> next{0};
  parallel_for(std::min<std::int64_t>(count, omp_get_max_threads()), 1, [&](std::int64_t, std::int64_t) {
    for (std::int64_t i = next++; i < count; i = next++) body(i);
  });
}

/// A grain in rows such that a piece touches at least about 32 Ki elements.
inline std::int64_t rows_per_piece(std::int64_t columns) {
  return std::max<std::int64_t>(1, 32768 / std::max<std::int64_t>(columns, 1));
}

}  // namespace wick
