#include "backend/cuda/arena.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <vector>

#include "backend/cuda/held_memory.h"
#include "backend/cuda/runtime.h"
#include "expect_error.h"

namespace wick::cuda {
namespace {

constexpr std::size_t kMiB = std::size_t{1} << 20;

// Addresses that stand for nothing, and a count of the memory that would be behind them.
struct Memory {
  std::size_t limit = std::size_t{1} << 40;
  std::size_t mapped = 0;
};
class FakeSpace final : public AddressSpace {
 public:
  FakeSpace(Memory& memory, std::size_t at) : memory_(memory), at_(at) {}
  ~FakeSpace() override {
    for (const auto& [offset, bytes] : pieces_) memory_.mapped -= bytes;
  }
  std::byte* base() const override { return reinterpret_cast<std::byte*>(at_); }
  std::size_t bytes() const override { return std::size_t{64} << 30; }
  bool map(std::size_t offset, std::size_t bytes) override {
    EXPECT_TRUE(pieces_.emplace(offset, bytes).second);
    if (memory_.mapped + bytes > memory_.limit) {
      pieces_.erase(offset);
      return false;
    }
    memory_.mapped += bytes;
    return true;
  }
  void unmap(std::size_t offset, std::size_t bytes) noexcept override {
    EXPECT_EQ(pieces_.erase(offset), 1U);
    memory_.mapped -= bytes;
  }

 private:
  Memory& memory_;
  std::size_t at_;
  std::map<std::size_t, std::size_t> pieces_;
};

class ArenaTest : public testing::Test {
 protected:
  Memory memory;
  std::size_t next = std::size_t{1} << 44;
  bool may_wait = true;
  Arena arena{0, [this] { return std::make_unique<FakeSpace>(memory, next += std::size_t{1} << 40); },
              [this] { return may_wait; }};
};

TEST_F(ArenaTest, HandsOutBlocksThatDoNotOverlap) {
  std::mt19937 random(1);
  std::vector<Arena::Block*> blocks;
  for (int i = 0; i < 3000; ++i) {
    if (random() % 5 < 2 && !blocks.empty()) {
      std::swap(blocks[random() % blocks.size()], blocks.back());
      Arena::release(blocks.back());
      blocks.pop_back();
    } else {
      const std::size_t bytes = random() % 2 == 0 ? random() % 5000 : random() % (40 * kMiB);
      blocks.push_back(arena.allocate(bytes));
      EXPECT_GE(blocks.back()->bytes, std::max<std::size_t>(bytes, 1));
      EXPECT_EQ(reinterpret_cast<std::uintptr_t>(blocks.back()->data) % 512, 0U);
    }
    if (i % 500 == 0) arena.trim();
  }
  std::sort(blocks.begin(), blocks.end(), [](const auto* a, const auto* b) { return a->data < b->data; });
  std::size_t used = 0;
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    used += blocks[i]->bytes;
    if (i > 0) {
      EXPECT_LE(blocks[i - 1]->data + blocks[i - 1]->bytes, blocks[i]->data);
    }
  }
  EXPECT_EQ(arena.stats().allocated, used);
  EXPECT_EQ(arena.stats().reserved, memory.mapped);
  EXPECT_GE(memory.mapped, used);
  for (Arena::Block* block : blocks) Arena::release(block);
  arena.trim();
  EXPECT_EQ(arena.stats().allocated, 0U);
  EXPECT_EQ(memory.mapped, 0U);
}

TEST_F(ArenaTest, UsesWhatWasFreedAgain) {
  Arena::Block* a = arena.allocate(30 * kMiB);
  Arena::Block* b = arena.allocate(50 * kMiB);
  Arena::Block* c = arena.allocate(10 * kMiB);
  const std::size_t before = memory.mapped;
  Arena::release(a);
  Arena::release(b);
  Arena::Block* joined = arena.allocate(80 * kMiB);  // neighbours are one again
  EXPECT_EQ(memory.mapped, before);
  Arena::release(joined);
  Arena::release(c);
}

TEST_F(ArenaTest, GivesHolesBack) {
  std::vector<Arena::Block*> blocks;
  for (int i = 0; i < 20; ++i) blocks.push_back(arena.allocate(40 * kMiB));
  for (std::size_t i = 0; i < blocks.size(); i += 2) Arena::release(blocks[i]);
  arena.trim();
  EXPECT_LE(memory.mapped, 10 * 48 * kMiB);  // each of the others reaches into chunks of 8 MiB
  Arena::Block* in_a_hole = arena.allocate(32 * kMiB);
  EXPECT_LT(in_a_hole->data, blocks.back()->data);
  Arena::release(in_a_hole);
  for (std::size_t i = 1; i < blocks.size(); i += 2) Arena::release(blocks[i]);
}

TEST_F(ArenaTest, ReservesLittleMoreThanItsPeak) {
  // What a training step of 16 layers does: weights stay, each layer keeps tensors of several sizes and frees others,
  // and backward takes some more while it frees them.
  std::vector<Arena::Block*> kept;
  for (int layer = 0; layer < 16; ++layer) kept.push_back(arena.allocate(140 * kMiB));
  for (int step = 0; step < 3; ++step) {
    std::vector<std::vector<Arena::Block*>> saved;
    for (int layer = 0; layer < 16; ++layer) {
      saved.emplace_back();
      for (const std::size_t mib : {32, 48, 32, 33, 256}) saved.back().push_back(arena.allocate(mib * kMiB));
      Arena::release(arena.allocate(130 * kMiB));
    }
    Arena::release(arena.allocate(501 * kMiB));
    while (!saved.empty()) {
      Arena::Block* gradient = arena.allocate(258 * kMiB);
      Arena::Block* again = arena.allocate(130 * kMiB);
      for (Arena::Block* block : saved.back()) Arena::release(block);
      Arena::Block* workspace = arena.allocate(300 * kMiB);
      for (Arena::Block* block : {gradient, again, workspace}) Arena::release(block);
      saved.pop_back();
    }
  }
  const Arena::Stats stats = arena.stats();
  EXPECT_LE(static_cast<double>(stats.reserved), 1.02 * static_cast<double>(stats.peak_allocated));
  for (Arena::Block* block : kept) Arena::release(block);
}

TEST_F(ArenaTest, KeepsWhatGraphsMayStillUse) {
  Arena kept(
      0, [this] { return std::make_unique<FakeSpace>(memory, next += std::size_t{1} << 40); },
      [] {
        ADD_FAILURE() << "a capture cannot wait";
        return false;
      },
      Arena::Keeps::all);
  Arena::Block* first = kept.allocate(30 * kMiB);
  Arena::release(first);
  const std::size_t reserved = kept.stats().reserved;
  kept.trim();
  EXPECT_EQ(kept.stats().reserved, reserved);
  // The next recording has the same memory, and a larger one as much more as it needs.
  Arena::Block* second = kept.allocate(30 * kMiB);
  EXPECT_EQ(kept.stats().reserved, reserved);
  Arena::release(second);
  memory.limit = memory.mapped;
  EXPECT_THROW((void)kept.allocate(60 * kMiB), Error);
  EXPECT_EQ(kept.stats().reserved, reserved);
  Arena::release(kept.allocate(30 * kMiB));
}

TEST_F(ArenaTest, SaysWhatIsThereWhenMemoryEndsAndGoesOn) {
  memory.limit = 100 * kMiB;
  Arena::Block* a = arena.allocate(60 * kMiB);
  test::expect_error(ErrorCode::out_of_memory, "cuda:0 cannot give 0.059 GiB: 0.06 GiB in use here",
                     [&] { (void)arena.allocate(60 * kMiB); });
  EXPECT_EQ(arena.stats().allocated, 60 * kMiB);
  EXPECT_EQ(memory.mapped, 64 * kMiB);  // whole chunks; what there was for the other one is not kept
  EXPECT_EQ(arena.stats().reserved, memory.mapped);
  Arena::Block* b = arena.allocate(30 * kMiB);
  Arena::release(a);
  a = arena.allocate(60 * kMiB);
  Arena::release(a);
  Arena::release(b);
}

TEST_F(ArenaTest, CountsWhatAllArenasOfTheDeviceHold) {
  Arena::Block* a = arena.allocate(1024 * kMiB);
  {
    Arena other(
        0, [this] { return std::make_unique<FakeSpace>(memory, next += std::size_t{1} << 40); }, [] { return true; },
        Arena::Keeps::all);
    Arena::release(other.allocate(512 * kMiB));
    test::expect_error(ErrorCode::out_of_memory,
                       "[cuda] a graph: out of memory (cudaErrorMemoryAllocation); cuda:0: 1.00 GiB in use here, "
                       "1.50 GiB reserved, ",
                       [] { check(cudaErrorMemoryAllocation, "a graph"); });
  }
  EXPECT_EQ(memory_text(0).substr(0, 41), "1.00 GiB in use here, 1.00 GiB reserved, ");
  Arena::release(a);
}

TEST_F(ArenaTest, GivesItsCacheToWhoeverAsksTheDriver) {
  Arena::release(arena.allocate(40 * kMiB));
  int calls = 0;
  const auto wants = [&](std::size_t bytes) {
    calls += 1;
    return memory.mapped + bytes <= memory.limit ? cudaSuccess : cudaErrorMemoryAllocation;
  };
  memory.limit = 50 * kMiB;
  arena.retry_after_trim("a little", [&] { return wants(10 * kMiB); });
  EXPECT_EQ(calls, 1);
  EXPECT_EQ(memory.mapped, 40 * kMiB);
  may_wait = false;  // as while a graph is recorded
  test::expect_error(ErrorCode::out_of_memory,
                     "[cuda] more: ", [&] { arena.retry_after_trim("more", [&] { return wants(50 * kMiB); }); });
  EXPECT_EQ(memory.mapped, 40 * kMiB);
  may_wait = true;
  calls = 0;
  arena.retry_after_trim("more", [&] { return wants(50 * kMiB); });
  EXPECT_EQ(calls, 2);
  EXPECT_EQ(memory.mapped, 0U);
  test::expect_error(ErrorCode::out_of_memory, "[cuda] too much: ", [&] {
    arena.retry_after_trim("too much", [&] { return wants(51 * kMiB); });
  });
  test::expect_error(ErrorCode::device, "[cuda] a failure: ", [&] {
    arena.retry_after_trim("a failure", [] { return cudaErrorLaunchFailure; });
  });
}

}  // namespace
}  // namespace wick::cuda
