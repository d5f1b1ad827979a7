#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <vector>

#include "backend/cuda/address_space.h"

namespace wick::cuda {

/// Device memory for work on one stream: a freed block may be handed out again at once, because whoever gets it runs
/// later in the same order. Blocks are cut from one stretch of addresses, and neighbours merge again when they are
/// freed; memory is brought to those addresses chunk by chunk as blocks reach them, and stays until it is trimmed. So
/// what is reserved follows what is used, however sizes come and go. With WICK_ARENA=off in the environment each block
/// is an allocation of the driver's instead, for compute-sanitizer, which does not see blocks within one.
class Arena {
 public:
  /// Blocks lie one after another in their space.
  struct Block {
    Arena* arena = nullptr;
    std::byte* data = nullptr;
    std::size_t bytes = 0;
    Block* previous = nullptr;
    Block* next = nullptr;
    bool used = false;
    bool small = false;  ///< of the space of small blocks
  };
  struct Stats {
    std::size_t allocated = 0;       ///< in blocks that are in use
    std::size_t peak_allocated = 0;  ///< at most, since reset_peak()
    std::size_t reserved = 0;        ///< the driver's memory
  };

  /// What an arena that runs out of memory, or is trimmed, keeps: the memory of blocks in use, or all, since graphs go
  /// on using what was freed.
  enum class Keeps { used, all };

  explicit Arena(int device, Keeps keeps = Keeps::used);
  /// With other addresses than the device's; `wait` returns true when all work that was queued has run, false at once
  /// where nobody may wait, since a graph is being recorded.
  using MakeSpace = std::function<std::unique_ptr<AddressSpace>()>;
  Arena(int device, MakeSpace make_space, std::function<bool()> wait, Keeps keeps = Keeps::used);
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  /// 512-byte aligned. Error(out_of_memory) with the numbers, after memory without blocks was given back and it still
  /// was not enough.
  Block* allocate(std::size_t bytes);
  static void release(Block* block) noexcept;  ///< to the arena that it came from

  /// Gives chunks that no block in use reaches into back to the driver; none while a graph is being recorded.
  void trim();
  /// check()s what `call` returns, which has the driver take memory of the device. Where that has none left, it is
  /// called again after trim().
  void retry_after_trim(const char* what, const std::function<cudaError_t()>& call);
  Stats stats() const;
  void reset_peak();

 private:
  struct Order {
    bool operator()(const Block* a, const Block* b) const noexcept;
  };
  struct Space {
    std::size_t chunk = 0;  // bytes that come and go together
    std::unique_ptr<AddressSpace> addresses;
    std::vector<bool> mapped;  // by chunk
    Block* first = nullptr;
    std::set<Block*, Order> free;  // by size, then address
  };
  Space& space_of(const Block* block) { return spaces_[block->small ? 1 : 0]; }
  Block* take(std::size_t bytes);
  bool back(const Block& block);
  void give_back(Space& space, std::size_t chunk) noexcept;
  Block* allocate_separate(std::size_t bytes);
  void free_separate(Block* block) noexcept;
  void trim_locked();
  void count_allocated(std::size_t bytes);  // as many more
  void count_released(std::size_t bytes) noexcept;
  void count_reserved(std::size_t bytes);
  void count_given_back(std::size_t bytes) noexcept;

  int device_;
  MakeSpace make_space_;  // null: blocks are the driver's own (WICK_ARENA=off)
  std::function<bool()> wait_;
  Keeps keeps_;
  mutable std::mutex mutex_;
  Space spaces_[2];  // of large and of small blocks
  Stats stats_;
};

/// The device's own arena, whatever ArenaScope there is: what stays, and what recordings do not keep to themselves.
Arena& device_arena(int device);
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
