#pragma once

// Products of a tall matrix [tokens, columns] with a rank, on the tensor cores of Hopper. The matrix is read once, in
// boxes of 64 x 64 that the copy engine brings to a ring in shared memory, where products take them along their rows
// and along their columns; whatever has the rank as an extent stays in registers or shared memory. All sums are made in
// a fixed order. lora_project.cuh and lora_outer.cuh have the kernels.

#include "backend/cuda/cluster.cuh"
#include "backend/cuda/kernels.cuh"
#include "backend/cuda/warp_group.cuh"

namespace wick::cuda::skinny {

constexpr int kBox = 64;  // rows and columns
constexpr int kBoxBytes = kBox * kBox * 2;
constexpr int kGroups = 2;                    // of four warps that multiply
constexpr int kMultiplying = kGroups * 128;   // threads
constexpr int kThreads = kMultiplying + 128;  // and a group that fetches, which leaves its registers to the others
constexpr int kFetchRegisters = 40;
constexpr int kRegisters = 232;
constexpr int kMaxBlocks = 8;
constexpr int kSharedLimit = 227 * 1024 - 1024;  // a block's, but for what the alignment may take

/// 64 rows of a matrix with the rank as its width.
template <int R>
constexpr int kNarrow = kBox* R * 2;

/// Where the siblings' shares of the factors' gradients go; see LoraWeight::Block.
struct Siblings {
  struct Block {
    int out_begin, out_end, rank_begin, rank_end;
    float scale;
    float *da, *db;  // null: not wanted
    std::int64_t da_stride, db_stride;
  };
  int count;
  bool add;  // to what da and db hold
  Block blocks[kMaxBlocks];
};

/// The block's shared memory from a boundary that swizzled boxes want.
__device__ inline unsigned char* aligned_shared() {
  extern __shared__ __align__(1024) unsigned char swizzled[];
  return swizzled + ((1024 - (shared_address(swizzled) & 1023)) & 1023);
}

/// The boxes of 64 rows of a narrow matrix.
template <int R>
__device__ inline void load_narrow(unsigned char* to, const CUtensorMap& map, int row, Arrival* arrival) {
#pragma unroll
  for (int j = 0; j < R / 16; ++j) load_box(shared_address(to + j * kNarrow<16>), map, 16 * j, row, arrival);
}

/// What both kernels know of a thread.
struct Place {
  int lane = static_cast<int>(threadIdx.x % 32);
  int warp = static_cast<int>(threadIdx.x / 32 % 4);  // of its group
  int group = static_cast<int>(threadIdx.x / 128);    // the last one fetches
};

}  // namespace wick::cuda::skinny
