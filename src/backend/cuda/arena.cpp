#include "backend/cuda/arena.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <string_view>
#include <utility>

#include "backend/cuda/held_memory.h"
#include "backend/cuda/runtime.h"
#include "core/fail.h"

namespace wick::cuda {

namespace {

constexpr std::size_t kGrain = 512;            // every block is a multiple: aligned, and few sizes
constexpr std::size_t kSmall = 1U << 20;       // up to here a block is of the space of small ones
constexpr std::size_t kSmallChunk = 2U << 20;  // the driver's page
constexpr std::size_t kLargeChunk = 8U << 20;

std::size_t round_up(std::size_t bytes, std::size_t grain) { return (bytes + grain - 1) / grain * grain; }

double gib(std::size_t bytes) { return static_cast<double>(bytes) / static_cast<double>(1U << 30); }

// Waiting would break off a capture.
bool wait_for(int device) {
  cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
  (void)cudaStreamIsCapturing(stream(device), &capture);
  if (capture != cudaStreamCaptureStatusNone) return false;
  (void)cudaStreamSynchronize(stream(device));
  return true;
}

[[noreturn]] void fail_to_give(int device, std::size_t bytes) {
  fail(ErrorCode::out_of_memory, "cuda:{} cannot give {:.3f} GiB: {}", device, gib(bytes), memory_text(device));
}

thread_local Arena* scoped_arena = nullptr;

// Never destroyed: tensors in static storage may outlive any order of destruction.
std::array<Arena*, 64>& device_arenas() {
  static std::array<Arena*, 64> arenas{};
  return arenas;
}

// WICK_ARENA=off: each block is an allocation of the driver's own, so that compute-sanitizer knows where it ends and
// what of it has been written.
bool switched_off() {
  static const bool off = [] {
    const char* const value = std::getenv("WICK_ARENA");
    return value != nullptr && std::string_view(value) == "off";
  }();
  return off;
}

}  // namespace

bool Arena::Order::operator()(const Block* a, const Block* b) const noexcept {
  return a->bytes != b->bytes ? a->bytes < b->bytes : a->data < b->data;
}

Arena::Arena(int device, Keeps keeps)
    : Arena(
          device, switched_off() ? MakeSpace() : [device] { return device_address_space(device); },
          [device] { return wait_for(device); }, keeps) {}

Arena::Arena(int device, MakeSpace make_space, std::function<bool()> wait, Keeps keeps)
    : device_(device), make_space_(std::move(make_space)), wait_(std::move(wait)), keeps_(keeps) {
  spaces_[0].chunk = kLargeChunk;
  spaces_[1].chunk = kSmallChunk;
}

Arena::~Arena() {
  // Every block has been released by now, so each space is one block again.
  for (const Space& space : spaces_) delete space.first;
  if (make_space_ != nullptr) held_memory(device_).reserved -= stats_.reserved;
}

void Arena::count_allocated(std::size_t bytes) {
  stats_.allocated += bytes;
  stats_.peak_allocated = std::max(stats_.peak_allocated, stats_.allocated);
  held_memory(device_).allocated += bytes;
}

void Arena::count_released(std::size_t bytes) noexcept {
  stats_.allocated -= bytes;
  held_memory(device_).allocated -= bytes;
}

void Arena::count_reserved(std::size_t bytes) {
  stats_.reserved += bytes;
  held_memory(device_).reserved += bytes;
}

void Arena::count_given_back(std::size_t bytes) noexcept {
  stats_.reserved -= bytes;
  held_memory(device_).reserved -= bytes;
}

// The smallest free block that fits, cut to size; at equal sizes the first. What lies behind all blocks is a free one
// too, the largest. Small blocks have a space of their own, so that none of them keeps a large chunk from being given
// back.
Arena::Block* Arena::take(std::size_t bytes) {
  Block key;
  key.bytes = bytes;
  key.small = bytes <= kSmall;
  Space& space = space_of(&key);
  if (space.addresses == nullptr) {
    space.addresses = make_space_();
    space.mapped.assign(space.addresses->bytes() / space.chunk, false);
    space.first =
        new Block{this, space.addresses->base(), space.addresses->bytes(), nullptr, nullptr, false, key.small};
    space.free.insert(space.first);
  }
  const auto found = space.free.lower_bound(&key);
  if (found == space.free.end()) return nullptr;
  Block* block = *found;
  space.free.erase(found);
  if (block->bytes - bytes >= (block->small ? kGrain : kSmall)) {
    auto* rest = new Block{this, block->data + bytes, block->bytes - bytes, block, block->next, false, block->small};
    if (rest->next != nullptr) rest->next->previous = rest;
    block->next = rest;
    block->bytes = bytes;
    space.free.insert(rest);
  }
  block->used = true;
  count_allocated(block->bytes);
  return block;
}

void Arena::give_back(Space& space, std::size_t chunk) noexcept {
  space.addresses->unmap(chunk * space.chunk, space.chunk);
  space.mapped[chunk] = false;
  count_given_back(space.chunk);
}

// Brings memory to where the block has none yet. False when there is not enough: what there was is not kept.
bool Arena::back(const Block& block) {
  Space& space = space_of(&block);
  std::vector<std::size_t> brought;
  const auto begin = static_cast<std::size_t>(block.data - space.addresses->base());
  for (std::size_t i = begin / space.chunk; i * space.chunk < begin + block.bytes; ++i) {
    if (space.mapped[i]) continue;
    if (!space.addresses->map(i * space.chunk, space.chunk)) {
      for (const std::size_t chunk : brought) give_back(space, chunk);
      return false;
    }
    space.mapped[i] = true;
    count_reserved(space.chunk);
    brought.push_back(i);
  }
  return true;
}

Arena::Block* Arena::allocate(std::size_t bytes) {
  if (make_space_ == nullptr) return allocate_separate(std::max<std::size_t>(bytes, 1));
  const std::size_t rounded = round_up(std::max<std::size_t>(bytes, 1), kGrain);
  Block* block = nullptr;
  {
    const std::scoped_lock lock(mutex_);
    block = take(rounded);
    if (block != nullptr && back(*block)) return block;
    trim_locked();
    if (block != nullptr && back(*block)) return block;
  }
  if (block != nullptr) release(block);
  fail_to_give(device_, rounded);
}

void Arena::release(Block* block) noexcept {
  Arena& arena = *block->arena;
  const std::scoped_lock lock(arena.mutex_);
  if (arena.make_space_ == nullptr) {
    arena.free_separate(block);
    return;
  }
  std::set<Block*, Order>& free = arena.space_of(block).free;
  arena.count_released(block->bytes);
  block->used = false;
  if (Block* next = block->next; next != nullptr && !next->used) {
    free.erase(next);
    block->bytes += next->bytes;
    block->next = next->next;
    if (block->next != nullptr) block->next->previous = block;
    delete next;
  }
  if (Block* previous = block->previous; previous != nullptr && !previous->used) {
    free.erase(previous);
    previous->bytes += block->bytes;
    previous->next = block->next;
    if (previous->next != nullptr) previous->next->previous = previous;
    delete block;
    block = previous;
  }
  free.insert(block);
}

// Nothing is kept that trimming could give back.
Arena::Block* Arena::allocate_separate(std::size_t bytes) {
  auto block = std::make_unique<Block>(Block{.arena = this, .bytes = bytes});
  (void)stream(device_);  // the device is current
  const cudaError_t status = cudaMalloc(reinterpret_cast<void**>(&block->data), bytes);
  if (status == cudaErrorMemoryAllocation) {
    (void)cudaGetLastError();
    fail_to_give(device_, bytes);
  }
  check(status, "an allocation");
  const std::scoped_lock lock(mutex_);
  count_allocated(bytes);
  count_reserved(bytes);
  return block.release();
}

void Arena::free_separate(Block* block) noexcept {
  count_released(block->bytes);
  if (keeps_ == Keeps::all || !wait_()) return;
  (void)cudaFree(block->data);
  count_given_back(block->bytes);
  delete block;
}

void Arena::trim_locked() {
  if (keeps_ == Keeps::all || !wait_()) return;  // what was freed may still be at work
  for (Space& space : spaces_) {
    if (space.addresses == nullptr) continue;
    std::vector<bool> reached(space.mapped.size(), false);
    for (const Block* block = space.first; block != nullptr; block = block->next) {
      if (!block->used) continue;
      const auto begin = static_cast<std::size_t>(block->data - space.addresses->base());
      for (std::size_t i = begin / space.chunk; i * space.chunk < begin + block->bytes; ++i) reached[i] = true;
    }
    for (std::size_t i = 0; i < reached.size(); ++i) {
      if (space.mapped[i] && !reached[i]) give_back(space, i);
    }
  }
}

void Arena::trim() {
  const std::scoped_lock lock(mutex_);
  trim_locked();
}

void Arena::retry_after_trim(const char* what, const std::function<cudaError_t()>& call) {
  cudaError_t status = call();
  if (status == cudaErrorMemoryAllocation) {
    (void)cudaGetLastError();  // it does not stay
    trim();
    status = call();
  }
  check(status, what);
}

Arena::Stats Arena::stats() const {
  const std::scoped_lock lock(mutex_);
  return stats_;
}

void Arena::reset_peak() {
  const std::scoped_lock lock(mutex_);
  stats_.peak_allocated = stats_.allocated;
}

Arena& device_arena(int device) {
  static std::mutex mutex;
  const std::scoped_lock lock(mutex);
  Arena*& found = device_arenas().at(static_cast<std::size_t>(device));
  if (found == nullptr) found = new Arena(device);
  return *found;
}

Arena& current_arena(int device) { return scoped_arena != nullptr ? *scoped_arena : device_arena(device); }

ArenaScope::ArenaScope(Arena& arena) noexcept : before_(std::exchange(scoped_arena, &arena)) {}
ArenaScope::~ArenaScope() { scoped_arena = before_; }

}  // namespace wick::cuda
