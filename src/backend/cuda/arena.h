#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <vector>

namespace wick::cuda {

/// Device memory for work on one stream: a freed block may be handed out again at once, because whoever gets it runs
/// later in the same order. Blocks are cut from large segments and merge again when they are freed; segments go back to
/// the driver only when it has nothing left.
class Arena {
 public:
  /// Blocks of a segment form a list in address order; the first one stands for the segment.
  struct Block {
    Arena* arena = nullptr;
    std::byte* data = nullptr;
    std::size_t bytes = 0;
    Block* previous = nullptr;
    Block* next = nullptr;
    bool used = false;
    bool small = false;  ///< of a segment of small blocks
  };
  struct Stats {
    std::size_t allocated = 0;       ///< in blocks that are in use
    std::size_t peak_allocated = 0;  ///< at most, since reset_peak()
    std::size_t reserved = 0;        ///< in segments
    std::size_t segments = 0;
  };

  explicit Arena(int device) : device_(device) {}
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  /// Error(out_of_memory) with the numbers, after idle segments were given back and it still was not enough.
  Block* allocate(std::size_t bytes);
  static void release(Block* block) noexcept;  ///< to the arena that it came from

  void trim();  ///< gives idle segments back to the driver
  Stats stats() const;
  void reset_peak();

 private:
  struct Order {
    bool operator()(const Block* a, const Block* b) const noexcept;
  };
  Block* take(std::size_t bytes);
  std::set<Block*, Order>& free_like(const Block* block);
  void trim_locked();

  int device_;
  mutable std::mutex mutex_;
  std::set<Block*, Order> free_[2];  // of large and of small segments, by size, then address
  std::vector<std::unique_ptr<Block>> first_of_segment_;
  Stats stats_;
};

/// The arena that allocations on this thread come from: the device's, or that of the innermost ArenaScope.
Arena& current_arena(int device);

/// Work inside comes from `arena`: a captured graph keeps its addresses to itself.
class ArenaScope {
 public:
  explicit ArenaScope(Arena& arena) noexcept;
  ~ArenaScope();
  ArenaScope(const ArenaScope&) = delete;
  ArenaScope& operator=(const ArenaScope&) = delete;

 private:
  Arena* before_;
};

}  // namespace wick::cuda
