#include "backend/cuda/arena.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <string_view>
#include <utility>

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
          [device] { (void)cudaStreamSynchronize(stream(device)); }, keeps) {}

Arena::Arena(int device, MakeSpace make_space, std::function<void()> wait, Keeps keeps)
    : device_(device), make_space_(std::move(make_space)), wait_(std::move(wait)), keeps_(keeps) {
  spaces_[0].chunk = kLargeChunk;
  spaces_[1].chunk = kSmallChunk;
}

Arena::~Arena() {
  // Every block has been released by now, so each space is one block again.
  for (const Space& space : spaces_) delete space.first;
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
  stats_.allocated += block->bytes;
  stats_.peak_allocated = std::max(stats_.peak_allocated, stats_.allocated);
  return block;
}

// Brings memory to where the block has none yet; false when there is not enough.
bool Arena::back(const Block& block) {
  Space& space = space_of(&block);
  const auto begin = static_cast<std::size_t>(block.data - space.addresses->base());
  for (std::size_t i = begin / space.chunk; i * space.chunk < begin + block.bytes; ++i) {
    if (space.mapped[i]) continue;
    if (!space.addresses->map(i * space.chunk, space.chunk)) return false;
    space.mapped[i] = true;
    stats_.reserved += space.chunk;
  }
  return true;
}

Arena::Block* Arena::allocate(std::size_t bytes) {
  if (make_space_ == nullptr) {
    auto block = std::make_unique<Block>(Block{.arena = this});
    (void)stream(device_);  // the device is current
    check(cudaMalloc(reinterpret_cast<void**>(&block->data), std::max<std::size_t>(bytes, 1)), "an allocation");
    return block.release();
  }
  const std::size_t rounded = round_up(std::max<std::size_t>(bytes, 1), kGrain);
  Block* block = nullptr;
  std::size_t allocated = 0;
  std::size_t reserved = 0;
  {
    const std::scoped_lock lock(mutex_);
    block = take(rounded);
    if (block != nullptr && back(*block)) return block;
    trim_locked();
    if (block != nullptr && back(*block)) return block;
    allocated = stats_.allocated - (block != nullptr ? block->bytes : 0);
    reserved = stats_.reserved;
  }
  if (block != nullptr) release(block);
  std::size_t available = 0;
  std::size_t total = 0;
  (void)cudaMemGetInfo(&available, &total);
  fail(ErrorCode::out_of_memory,
       "cuda:{} cannot give {:.3f} GiB: {:.2f} GiB in use here, {:.2f} GiB reserved, {:.2f} of {:.2f} GiB free",
       device_, gib(rounded), gib(allocated), gib(reserved), gib(available), gib(total));
}

void Arena::release(Block* block) noexcept {
  Arena& arena = *block->arena;
  const std::scoped_lock lock(arena.mutex_);
  if (arena.make_space_ == nullptr) {
    arena.free_separate(block);
    return;
  }
  std::set<Block*, Order>& free = arena.space_of(block).free;
  arena.stats_.allocated -= block->bytes;
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

// A capture cannot wait.
void Arena::free_separate(Block* block) noexcept {
  cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
  (void)cudaStreamIsCapturing(stream(device_), &capture);
  if (keeps_ == Keeps::all || capture != cudaStreamCaptureStatusNone) return;
  wait_();
  (void)cudaFree(block->data);
  delete block;
}

void Arena::trim_locked() {
  if (keeps_ == Keeps::all) return;
  wait_();  // what was freed may still be at work
  for (Space& space : spaces_) {
    if (space.addresses == nullptr) continue;
    std::vector<bool> reached(space.mapped.size(), false);
    for (const Block* block = space.first; block != nullptr; block = block->next) {
      if (!block->used) continue;
      const auto begin = static_cast<std::size_t>(block->data - space.addresses->base());
      for (std::size_t i = begin / space.chunk; i * space.chunk < begin + block->bytes; ++i) reached[i] = true;
    }
    for (std::size_t i = 0; i < reached.size(); ++i) {
      if (!space.mapped[i] || reached[i]) continue;
      space.addresses->unmap(i * space.chunk, space.chunk);
      space.mapped[i] = false;
      stats_.reserved -= space.chunk;
    }
  }
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
  static std::mutex mutex;
  if (scoped_arena != nullptr) return *scoped_arena;
  const std::scoped_lock lock(mutex);
  Arena*& found = device_arenas().at(static_cast<std::size_t>(device));
  if (found == nullptr) found = new Arena(device);
  return *found;
}

ArenaScope::ArenaScope(Arena& arena) noexcept : before_(std::exchange(scoped_arena, &arena)) {}
ArenaScope::~ArenaScope() { scoped_arena = before_; }

}  // namespace wick::cuda
