// Linear cross-entropy on CUDA: logits of a chunk of tokens by the GEMM library, then one pass of ours over each row
// that leaves the gradient in their place.
#include <algorithm>
#include <cmath>
#include <type_traits>

#include "backend/cuda/arrival.cuh"
#include "backend/cuda/cluster.cuh"
#include "backend/cuda/kernels.cuh"
#include "backend/cuda/ptx.cuh"
#include "backend/cuda/row_plan.h"
#include "backend/gemm.h"
#include "ops/linear_cross_entropy/linear_cross_entropy.h"

namespace wick::cuda {
namespace {

constexpr int kPack = 4;        // logits that are read as one
constexpr int kLinePacks = 16;  // whose gradients of 16 bits are a line of 128 bytes
constexpr int kHeldThreads = 512;
constexpr int kHeldWarps = kHeldThreads / 32;
constexpr int kPassThreads = 512;

// The logits of a chunk of tokens, a row each, and where the gradient goes: over the logits, at the start of its row.
struct Rows {
  float* logits;
  std::int64_t stride;  // of floats; every row starts on 16 bytes and holds whole packs
  int vocab;
  int packs;                    // in a row; the last one may reach beyond the vocabulary
  const std::int32_t* targets;  // -1: not trained on; -2: a label outside the vocabulary
  float* losses;
  float smoothing;
  bool gradient;
};

// What a part of a row says about its sum of exponentials.
struct Part {
  float top;    // the largest logit
  float sum;    // of e^(logit - top)
  float total;  // of the logits, for smoothing
};

// For gradients of 16 bits the approximate exponential loses nothing that they could hold.
template <class T>
__device__ inline float exponential(float x) {
  return std::is_same_v<T, float> ? expf(x) : fast_exp2(x * 1.44269504F);
}

// A row without logits, or whose logits are all -inf, has its exponentials relative to 0.
__device__ inline float finite_top(float top) { return top == -INFINITY ? 0.0F : top; }

__device__ inline float loss_of(const Rows& rows, const Part& row, float at_target) {
  const float below = row.top - row.total / static_cast<float>(rows.vocab);  // mean of top - logit
  return logf(row.sum) + (1 - rows.smoothing) * (row.top - at_target) +
         (rows.smoothing != 0 ? rows.smoothing * below : 0.0F);
}

// Softmax - target of a pack, from e^(logit - something) and what makes probabilities of it. `at`: where in it the
// target is, if it is there.
template <class T>
__device__ inline void store_slopes(const Rows& rows, T* out, const float (&exponentials)[kPack], float factor,
                                    int at) {
  const float spread = rows.smoothing / static_cast<float>(rows.vocab);
  Pack<T, kPack> slopes;
#pragma unroll
  for (int e = 0; e < kPack; ++e) {
    const float p = exponentials[e] * factor - spread;
    slopes[e] = from_float<T>(e == at ? p - (1 - rows.smoothing) : p);
  }
  store_pack(out, slopes);
}

// A row that is not trained on, or whose label is none: nothing is read.
template <class T, int kThreads>
__device__ inline void leave_out(const Rows& rows, T* out, int row, int begin, int end) {
  const float value = rows.targets[row] == -1 ? 0.0F : NAN;
  if (begin == 0 && threadIdx.x == 0) rows.losses[row] = value;
  if (!rows.gradient) return;
  Pack<T, kPack> pack;
#pragma unroll
  for (int e = 0; e < kPack; ++e) pack[e] = from_float<T>(value);
  for (int i = begin + static_cast<int>(threadIdx.x); i < end; i += kThreads) store_pack(out + i * kPack, pack);
}

// The parts of two rows in turn, one of each warp in the cluster: one row's are written while the other's are read.
struct Meeting {
  float4 parts[2][kMaxCluster * kHeldWarps];
  Arrival all[2];
};
constexpr std::uint32_t meeting_bytes(int blocks) {
  return static_cast<std::uint32_t>(blocks * kHeldWarps) * sizeof(float4);
}

// Sends a warp's part to all blocks, and combines all parts in an order that only their number decides. Row `number` of
// the cluster's. A warp takes part in row n + 2 when all have in n + 1, so after all have read n's, and each block
// expects those of n + 2.
__device__ inline Part meet(Meeting& meeting, int number, const Part& mine, bool with_total, int blocks, int rank) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int turn = number % 2;
  float4* const parts = meeting.parts[turn];
  Arrival* const all = &meeting.all[turn];
  float4* const to = parts + rank * kHeldWarps + threadIdx.x / 32;
  const float4 part{mine.top, mine.sum, mine.total, 0.0F};
  if (blocks == 1) {  // a block that is no cluster has nobody to send to
    if (lane == 0) *to = part;
    __syncthreads();
  } else {
    if (lane < blocks) send_async(to, part, all, static_cast<unsigned>(lane));
    arrival_wait(all, static_cast<std::uint32_t>(number / 2 % 2));
    if (threadIdx.x == 0) arrival_expect(all, meeting_bytes(blocks));
  }
  const int count = blocks * kHeldWarps;
  Part whole{-INFINITY, 0.0F, 0.0F};
#pragma unroll 1  // the row is in the registers
  for (int i = lane; i < count; i += 32) whole.top = fmaxf(whole.top, parts[i].x);
  whole.top = warp_max(whole.top);
#pragma unroll 1
  for (int i = lane; i < count; i += 32) {
    const float4 part = parts[i];
    whole.sum += part.y * expf(part.x - whole.top);
    whole.total += part.z;
  }
  whole.sum = warp_sum(whole.sum);
  if (with_total) whole.total = warp_sum(whole.total);
  return whole;
}

// How clusters share rows out.
struct Split {
  int count;            // rows
  int packs_per_block;  // of a row
  int blocks;           // of a cluster: 2^shift
  int shift;
  Evict reads;
};

// Loss and, where it is wanted, gradient: a cluster takes one row after another, each block its part. The logits come
// into shared memory while the row before is worked on, and from there into registers: they are read once, and may be
// overwritten as soon as all blocks have theirs. The warps of the cluster meet once a row.
template <class T, int kPacks>
__global__ void __launch_bounds__(kHeldThreads, kPacks <= 10 ? 2 : 1) loss_rows_held(Rows rows, Split split) {
  __shared__ Meeting meeting;
  __shared__ Arrival loaded;
  __shared__ float at_target;  // thread 0's
  const auto* const buffer = reinterpret_cast<const float*>(dynamic_shared());
  // From what the compiler knows to be the same in all threads: registers are scarce.
  const int rank = static_cast<int>(blockIdx.x) & (split.blocks - 1);
  const int thread = static_cast<int>(threadIdx.x);
  const int begin = rank * split.packs_per_block;
  const int end = min(begin + split.packs_per_block, rows.packs);
  const int first = begin + thread;                                  // of this thread's packs, in steps of kHeldThreads
  const int columns = min(rows.vocab, end * kPack) - first * kPack;  // from there to the end of the block's part
  const int step = static_cast<int>(gridDim.x) >> split.shift;
  const int count = split.count;
  const auto fetch = [&](int row) {  // by thread 0
    const std::uint32_t bytes = static_cast<std::uint32_t>(end - begin) * kPack * sizeof(float);
    arrival_expect(&loaded, bytes);
    load_async(dynamic_shared(), rows.logits + row * rows.stride + begin * kPack, bytes, &loaded,
               l2_policy(split.reads));
  };
  if (thread == 0) {
    for (Arrival* arrival : {&loaded, &meeting.all[0], &meeting.all[1]}) arrival_init(arrival);
    if (split.blocks > 1) {
      for (Arrival& all : meeting.all) arrival_expect(&all, meeting_bytes(split.blocks));
    }
  }
  cluster_sync();  // all of its blocks have begun: their memory may be written
  wait_for_previous();
  allow_next();

  int row = static_cast<int>(blockIdx.x) >> split.shift;
  int target = row < count ? rows.targets[row] : -1;
  if (thread == 0 && target >= 0) fetch(row);
  int number = 0;  // of the cluster's rows that are trained on
  for (int next = row + step; row < count; row = next, next += step) {
    const int next_target = next < count ? rows.targets[next] : -1;
    if (target < 0) {
      leave_out<T, kHeldThreads>(rows, reinterpret_cast<T*>(rows.logits + row * rows.stride), row, begin, end);
      if (thread == 0 && next_target >= 0) fetch(next);
      target = next_target;
      continue;
    }
    arrival_wait(&loaded, static_cast<std::uint32_t>(number % 2));
    const bool speaks = thread == 0 && target >= begin * kPack && target < end * kPack;
    if (speaks) at_target = buffer[target - begin * kPack];
    float z[kPacks][kPack];
    Part mine{-INFINITY, 0.0F, 0.0F};
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      const Pack<float> pack = load_pack(buffer + (thread + p * kHeldThreads) * kPack);
#pragma unroll
      for (int e = 0; e < kPack; ++e) z[p][e] = pack[e];
    }
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      const int left = columns - p * kHeldThreads * kPack;
      if (rows.smoothing != 0) {
#pragma unroll
        for (int e = 0; e < kPack; ++e) mine.total += e < left ? z[p][e] : 0.0F;
      }
      if (left < kPack) {  // behind the part's end lies what was there before
#pragma unroll
        for (int e = 0; e < kPack; ++e) z[p][e] = e < left ? z[p][e] : -INFINITY;
      }
#pragma unroll
      for (int e = 0; e < kPack; ++e) mine.top = fmaxf(mine.top, z[p][e]);
    }
    leave_to_copies();
    __syncthreads();  // the buffer is free
    if (thread == 0 && next_target >= 0) fetch(next);

    mine.top = warp_max(mine.top);
    const float reference = finite_top(mine.top);
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
#pragma unroll
      for (int e = 0; e < kPack; ++e) {
        z[p][e] = exponential<T>(z[p][e] - reference);
        mine.sum += z[p][e];
      }
    }
    mine.sum = warp_sum(mine.sum);
    if (rows.smoothing != 0) mine.total = warp_sum(mine.total);
    const Part whole = meet(meeting, number, mine, rows.smoothing != 0, split.blocks, rank);
    if (speaks) rows.losses[row] = loss_of(rows, whole, at_target);
    if (rows.gradient) {
      const float factor = expf(mine.top - whole.top) / whole.sum;
      T* const out = reinterpret_cast<T*>(rows.logits + row * rows.stride) + first * kPack;
      const int at = target - first * kPack;
#pragma unroll
      for (int p = 0; p < kPacks; ++p) {
        if (p * kHeldThreads * kPack < columns) {
          store_slopes(rows, out + p * kHeldThreads * kPack, z[p], factor, at - p * kHeldThreads * kPack);
        }
      }
    }
    ++number;
    target = next_target;
  }
}

// A block a row, which is read for its loss and, where that is wanted, again for its gradient: for devices without
// clusters, and vocabularies that no cluster can hold.
template <class T>
__global__ void __launch_bounds__(kPassThreads, 3) loss_rows_in_passes(Rows rows) {
  __shared__ float scratch[kPassThreads / 32];
  wait_for_previous();
  allow_next();
  const int row = static_cast<int>(blockIdx.x);
  float* logits = rows.logits + row * rows.stride;
  T* out = reinterpret_cast<T*>(logits);
  const int target = rows.targets[row];
  if (target < 0) return leave_out<T, kPassThreads>(rows, out, row, 0, rows.packs);

  constexpr int kAtOnce = 4;         // packs
  Part part{-INFINITY, 0.0F, 0.0F};  // as it grows (Milakov & Gimelshein 2018)
  for (int i = static_cast<int>(threadIdx.x); i < rows.packs; i += kAtOnce * kPassThreads) {
    Pack<float> z[kAtOnce] = {};
#pragma unroll
    for (int p = 0; p < kAtOnce; ++p) {
      if (i + p * kPassThreads < rows.packs) z[p] = load_pack(logits + (i + p * kPassThreads) * kPack);
    }
    float top = part.top;
#pragma unroll
    for (int p = 0; p < kAtOnce; ++p) {
      const int left = rows.vocab - (i + p * kPassThreads) * kPack;
      if (rows.smoothing != 0) {
#pragma unroll
        for (int e = 0; e < kPack; ++e) part.total += e < left ? z[p][e] : 0.0F;
      }
      if (left < kPack) {
#pragma unroll
        for (int e = 0; e < kPack; ++e) z[p][e] = e < left ? z[p][e] : -INFINITY;
      }
#pragma unroll
      for (int e = 0; e < kPack; ++e) top = fmaxf(top, z[p][e]);
    }
    const float reference = finite_top(top);
    part.sum *= exponential<T>(part.top - reference);
    part.top = top;
#pragma unroll
    for (int p = 0; p < kAtOnce; ++p) {
#pragma unroll
      for (int e = 0; e < kPack; ++e) part.sum += exponential<T>(z[p][e] - reference);
    }
  }
  const float top = block_max<kPassThreads>(part.top, scratch);
  part.sum = block_sum<kPassThreads>(part.sum * expf(finite_top(part.top) - finite_top(top)), scratch);
  part.total = block_sum<kPassThreads>(part.total, scratch);
  part.top = top;
  if (threadIdx.x == 0) rows.losses[row] = loss_of(rows, part, logits[target]);
  if (!rows.gradient) return;
  const float factor = 1.0F / part.sum;
  for (int start = 0; start < rows.packs; start += kPassThreads) {
    const int i = start + static_cast<int>(threadIdx.x);
    Pack<float> z = {};
    if (i < rows.packs) z = load_pack(logits + i * kPack);
    __syncthreads();  // what is written now lies where the logits so far were, which all have read
    if (i >= rows.packs) continue;
#pragma unroll
    for (int e = 0; e < kPack; ++e) z[e] = exponential<T>(z[e] - part.top);
    store_slopes(rows, out + i * kPack, z.values, factor, target - i * kPack);
  }
}

constexpr std::size_t held_bytes(int packs) { return sizeof(float) * kPack * packs * kHeldThreads; }

// As many clusters as run at once.
template <class T, int kPacks>
void launch_held(const Work& work, const Rows& rows, const Split& split) {
  constexpr std::size_t kShared = held_bytes(kPacks);
  void (*const kernel)(Rows, Split) = loss_rows_held<T, kPacks>;
  const auto blocks = static_cast<unsigned>(split.blocks);
  const int resident =
      std::max(resident_clusters(reinterpret_cast<const void*>(kernel), kHeldThreads, blocks, kShared), 1);
  launch(work, kernel,
         {.grid = static_cast<unsigned>(std::min(split.count, resident)) * blocks,
          .block = kHeldThreads,
          .shared = kShared,
          .overlap = true,
          .cluster = blocks},
         rows, split);
}

// The fewest blocks in whose registers a row fits.
template <class T>
void launch_loss(const Work& work, const Rows& rows, std::int64_t count, Device device) {
  const RowTrial* const trial = RowTrial::current();
  // Nobody reads the logits again; but where their gradients take their places, these lines are written.
  const Evict reads = trial != nullptr ? trial->marks.reads : rows.gradient ? Evict::usual : Evict::first;
  const DeviceInfo& on = info(device.index);
  const bool held = on.major >= 9;
  for (int shift = 0; held && 1U << shift <= largest_cluster(); ++shift) {
    const int blocks = 1 << shift;
    // Parts begin on a line, of logits and of gradients.
    const int per_block = ((rows.packs + blocks - 1) / blocks + kLinePacks - 1) / kLinePacks * kLinePacks;
    const int per_thread = (per_block + kHeldThreads - 1) / kHeldThreads;
    const Split split = {static_cast<int>(count), per_block, blocks, shift, reads};
    if (per_thread <= 8) return launch_held<T, 8>(work, rows, split);
    if (1U << shift < largest_cluster()) continue;
    if (per_thread <= 10) return launch_held<T, 10>(work, rows, split);
    if (per_thread <= 16 && held_bytes(16) + sizeof(Meeting) + 64 <= on.shared_bytes) {  // 64: all else that is shared
      return launch_held<T, 16>(work, rows, split);
    }
  }
  launch(work, loss_rows_in_passes<T>, {.grid = static_cast<unsigned>(count), .block = kPassThreads, .overlap = true},
         rows);
}

constexpr int kThreads = 1024;

// In a fixed order, in double.
__global__ void sum_losses(const float* losses, std::int64_t count, float* total) {
  __shared__ double parts[kThreads];
  double mine = 0;
  for (std::int64_t i = threadIdx.x; i < count; i += kThreads) mine += static_cast<double>(losses[i]);
  parts[threadIdx.x] = mine;
  for (int half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) parts[threadIdx.x] += parts[threadIdx.x + half];
  }
  if (threadIdx.x == 0) *total = static_cast<float>(parts[0]);
}

template <class I>
__global__ void map_labels(const I* labels, std::int64_t count, std::int64_t vocab, std::int64_t ignore,
                           std::int32_t* targets) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= count) return;
  const auto label = static_cast<std::int64_t>(labels[i]);
  targets[i] = label == ignore ? -1 : label < 0 || label >= vocab ? -2 : static_cast<std::int32_t>(label);
}

// Logits are float32 whatever the model's type: beside the GEMMs the wider rows cost little, and the loss keeps the
// digits that the accumulators had. Their gradient, of the model's type, takes their place. Rows that are not trained
// on go through the GEMMs too, so that the work does not depend on labels, which only the device knows.
Declined linear_cross_entropy_cuda(const Tensor& x, const Tensor& weight, const Tensor& labels, double label_smoothing,
                                   std::int64_t chunk, const Tensor& loss, const Tensor& token_losses, const Tensor& dx,
                                   const Tensor& dweight) {
  if (x.dtype() == DType::f64) return "f64";
  const bool rows_dense = weight.stride(1) == 1 && weight.stride(0) >= weight.size(1);
  const bool columns_dense = weight.stride(0) == 1 && weight.stride(1) >= weight.size(0);
  if (!rows_dense && !columns_dense) return "a weight with neither stride 1";
  const std::int64_t tokens = x.size(0);
  const std::int64_t vocab = weight.size(0);
  if (vocab >= std::int64_t{1} << 30) return "2^30 words and more";
  if (dweight.defined()) dweight.fill(0);
  if (tokens == 0) {
    loss.fill(0);
    return nullptr;
  }
  const Tensor inputs = x.stride(1) == 1 && x.stride(0) >= x.size(1) ? x : x.contiguous();
  const bool gradient = dx.defined() || dweight.defined();
  const std::int64_t stride = (vocab + 63) / 64 * 64;  // every row on a line of its own
  const std::int64_t limit =
      std::min(tokens, chunk > 0 ? chunk : logit_rows(DeviceType::cuda, tokens, vocab, gradient));
  const auto element = static_cast<std::int64_t>(size_of(x.dtype()));
  const Tensor buffer = Tensor::empty({limit, stride}, DType::f32, x.device());
  const Tensor slopes = Tensor::view_of(buffer.storage(), 0, {limit, stride * 4 / element}, x.dtype());
  const Tensor losses = token_losses.defined() ? token_losses : Tensor::empty({tokens}, DType::f32, x.device());
  for (std::int64_t start = 0; start < tokens; start += limit) {
    const std::int64_t count = std::min(limit, tokens - start);
    const auto cut = [&](const Tensor& t) { return t.slice(0, 0, count).slice(1, 0, vocab); };
    const Tensor logits = cut(buffer);
    const Tensor dlogits = cut(slopes);
    const Tensor rows = inputs.slice(0, start, count);
    gemm(rows, weight.transpose(0, 1), logits);
    const Work work{.name = "cross-entropy",
                    .bytes = static_cast<double>(count * vocab * (4 + (gradient ? element : 0)))};
    const Rows row_work{.logits = pointer<float>(logits),
                        .stride = stride,
                        .vocab = static_cast<int>(vocab),
                        .packs = static_cast<int>((vocab + kPack - 1) / kPack),
                        .targets = pointer<std::int32_t>(labels) + start,
                        .losses = pointer<float>(losses) + start,
                        .smoothing = static_cast<float>(label_smoothing),
                        .gradient = gradient};
    visit_narrow(x.dtype(), [&](auto tag) { launch_loss<decltype(tag)>(work, row_work, count, x.device()); });
    if (dx.defined()) gemm(dlogits, weight, dx.slice(0, start, count));
    if (dweight.defined()) gemm(dlogits.transpose(0, 1), rows, dweight, 1.0, 1.0);
  }
  launch({"loss", 4.0 * static_cast<double>(tokens)}, sum_losses, {.grid = {1}, .block = {kThreads}},
         pointer<float>(losses), tokens, pointer<float>(loss));
  return nullptr;
}

Declined label_targets_cuda(const Tensor& labels, std::int64_t vocab, std::int64_t ignore_index,
                            const Tensor& targets) {
  const std::int64_t count = labels.numel();
  const Launch how{.grid = {blocks_for(count, 256)}, .block = {256}};
  if (labels.dtype() == DType::i32) {
    launch({"labels"}, map_labels<std::int32_t>, how, pointer<std::int32_t>(labels), count, vocab, ignore_index,
           pointer<std::int32_t>(targets));
  } else {
    launch({"labels"}, map_labels<std::int64_t>, how, pointer<std::int64_t>(labels), count, vocab, ignore_index,
           pointer<std::int32_t>(targets));
  }
  return nullptr;
}

}  // namespace

void register_linear_cross_entropy() {
  linear_cross_entropy_kernels.on(DeviceType::cuda) = linear_cross_entropy_cuda;
  label_targets_kernels.on(DeviceType::cuda) = label_targets_cuda;
}

}  // namespace wick::cuda
