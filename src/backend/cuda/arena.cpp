#include "backend/cuda/arena.h"

#include <algorithm>
#include <array>
#include <utility>

#include "backend/cuda/runtime.h"
#include "core/fail.h"

namespace wick::cuda {

namespace {

constexpr std::size_t kGrain = 512;       // every block is a multiple: aligned, and few sizes
constexpr std::size_t kSmall = 1U << 20;  // smaller ones share a segment of kSmallSegment
constexpr std::size_t kSmallSegment = 2U << 20;
constexpr std::size_t kLargeSegment = 64U << 20;
constexpr std::size_t kSegmentGrain = 2U << 20;  // the driver's page

std::size_t round_up(std::size_t bytes, std::size_t grain) { return (bytes + grain - 1) / grain * grain; }

std::size_t segment_size(std::size_t bytes) {
  if (bytes <= kSmall) return kSmallSegment;
  return bytes < kLargeSegment / 2 ? kLargeSegment : round_up(bytes, kSegmentGrain);
}

double gib(std::size_t bytes) { return static_cast<double>(bytes) / static_cast<double>(1U << 30); }

thread_local Arena* scoped_arena = nullptr;

}  // namespace

bool Arena::Order::operator()(const Block* a, const Block* b) const noexcept {
  return a->bytes != b->bytes ? a->bytes < b->bytes : a->data < b->data;
}

Arena::~Arena() {
  // Every block has been released by now, so each segment is one block again.
  for (const auto& block : first_of_segment_) (void)cudaFree(block->data);
}

std::set<Arena::Block*, Arena::Order>& Arena::free_like(const Block* block) { return free_[block->small ? 1 : 0]; }

// The smallest free block that fits, cut to size. Small blocks have segments of their own, so that none of them keeps a
// large segment from being given back.
Arena::Block* Arena::take(std::size_t bytes) {
  Block key;
  key.bytes = bytes;
  key.small = bytes <= kSmall;
  std::set<Block*, Order>& free = free_like(&key);
  const auto found = free.lower_bound(&key);
  if (found == free.end()) return nullptr;
  Block* block = *found;
  free.erase(found);
  if (block->bytes - bytes >= (block->small ? kGrain : kSmall)) {
    auto* rest = new Block{this, block->data + bytes, block->bytes - bytes, block, block->next, false, block->small};
    if (rest->next != nullptr) rest->next->previous = rest;
    block->next = rest;
    block->bytes = bytes;
    free.insert(rest);
  }
  return block;
}

Arena::Block* Arena::allocate(std::size_t bytes) {
  const std::size_t rounded = round_up(std::max<std::size_t>(bytes, 1), kGrain);
  const std::scoped_lock lock(mutex_);
  Block* block = take(rounded);
  if (block == nullptr) {
    (void)stream(device_);  // makes the device current
    const std::size_t size = segment_size(rounded);
    void* memory = nullptr;
    if (cudaMalloc(&memory, size) != cudaSuccess) {
      (void)cudaGetLastError();
      trim_locked();
      if (cudaMalloc(&memory, size) != cudaSuccess) {
        (void)cudaGetLastError();
        std::size_t available = 0;
        std::size_t total = 0;
        (void)cudaMemGetInfo(&available, &total);
        fail(ErrorCode::out_of_memory,
             "cuda:{} cannot give {:.3f} GiB: {:.2f} GiB in use here, {:.2f} GiB reserved, {:.2f} of {:.2f} GiB free",
             device_, gib(size), gib(stats_.allocated), gib(stats_.reserved), gib(available), gib(total));
      }
    }
    first_of_segment_.emplace_back(
        new Block{this, static_cast<std::byte*>(memory), size, nullptr, nullptr, false, rounded <= kSmall});
    free_like(first_of_segment_.back().get()).insert(first_of_segment_.back().get());
    stats_.reserved += size;
    stats_.segments += 1;
    block = take(rounded);
    if (block == nullptr)
      fail(ErrorCode::out_of_memory, "cuda:{}: a new segment does not fit {} bytes", device_, bytes);
  }
  block->used = true;
  stats_.allocated += block->bytes;
  stats_.peak_allocated = std::max(stats_.peak_allocated, stats_.allocated);
  return block;
}

void Arena::release(Block* block) noexcept {
  Arena& arena = *block->arena;
  const std::scoped_lock lock(arena.mutex_);
  arena.stats_.allocated -= block->bytes;
  block->used = false;
  if (Block* next = block->next; next != nullptr && !next->used) {
    arena.free_like(next).erase(next);
    block->bytes += next->bytes;
    block->next = next->next;
    if (block->next != nullptr) block->next->previous = block;
    delete next;
  }
  if (Block* previous = block->previous; previous != nullptr && !previous->used) {
    arena.free_like(previous).erase(previous);
    previous->bytes += block->bytes;
    previous->next = block->next;
    if (previous->next != nullptr) previous->next->previous = previous;
    delete block;
    block = previous;
  }
  arena.free_like(block).insert(block);
}

void Arena::trim_locked() {
  (void)cudaStreamSynchronize(stream(device_));  // what was freed may still be at work
  std::erase_if(first_of_segment_, [&](const std::unique_ptr<Block>& block) {
    if (block->used || block->next != nullptr) return false;
    free_like(block.get()).erase(block.get());
    (void)cudaFree(block->data);
    stats_.reserved -= block->bytes;
    stats_.segments -= 1;
    return true;
  });
}

void Arena::trim() {
  const std::scoped_lock lock(mutex_);
  trim_locked();
}

Arena::Stats Arena::stats() const {
  const std::scoped_lock lock(mutex_);
  return stats_;
}

void Arena::reset_peak() {
  const std::scoped_lock lock(mutex_);
  stats_.peak_allocated = stats_.allocated;
}

Arena& current_arena(int device) {
  // Never destroyed: tensors in static storage may outlive any order of destruction.
  static std::array<Arena*, 64> arenas{};
  static std::mutex mutex;
  if (scoped_arena != nullptr) return *scoped_arena;
  const std::scoped_lock lock(mutex);
  Arena*& found = arenas.at(static_cast<std::size_t>(device));
  if (found == nullptr) found = new Arena(device);
  return *found;
}

ArenaScope::ArenaScope(Arena& arena) noexcept : before_(std::exchange(scoped_arena, &arena)) {}
ArenaScope::~ArenaScope() { scoped_arena = before_; }

}  // namespace wick::cuda
