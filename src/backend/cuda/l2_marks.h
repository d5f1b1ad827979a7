#pragma once

#include <cstdint>

namespace wick::cuda {

/// When L2 evicts a line, among all that it holds.
enum class Evict : std::uint8_t { usual, first, last };

/// What a kernel asks of L2 for the lines that it reads and for those that it writes.
struct L2Marks {
  Evict reads = Evict::usual, writes = Evict::usual;
};

}  // namespace wick::cuda
