// Linear cross-entropy on CUDA: logits of a chunk of tokens by the GEMM library, then one pass of ours over each row
// that leaves the gradient in their place.
#include <algorithm>
#include <cmath>

#include "backend/cuda/kernels.cuh"
#include "backend/gemm.h"
#include "ops/linear_cross_entropy/linear_cross_entropy.h"

namespace wick::cuda {
namespace {

constexpr int kThreads = 1024;
constexpr std::size_t kKept = 192 * 1024;  // bytes of a row that stay in shared memory between the passes

// Running maximum and, relative to it, sum of exponentials of a row (Milakov & Gimelshein 2018).
struct Running {
  float top = -INFINITY;
  float sum = 0.0F;

  __device__ void add(float z) {
    if (z <= top) {
      sum += __expf(z - top);
    } else {
      sum = sum * __expf(top - z) + 1.0F;  // also for NaN, which stays; -inf - -inf cannot come here
      top = z;
    }
  }
  __device__ void merge(float other_top, float other_sum) {
    const float highest = fmaxf(top, other_top);
    if (highest == -INFINITY) return;
    sum = sum * __expf(top - highest) + other_sum * __expf(other_top - highest);
    top = highest;
  }
};

__device__ Running merge_block(Running mine, Running* scratch) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    mine.merge(__shfl_xor_sync(0xffffffffU, mine.top, offset), __shfl_xor_sync(0xffffffffU, mine.sum, offset));
  }
  __syncthreads();
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = mine;
  __syncthreads();
  Running all = scratch[threadIdx.x % 32];
  static_assert(kThreads == 1024, "a warp holds one entry for each warp");
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    all.merge(__shfl_xor_sync(0xffffffffU, all.top, offset), __shfl_xor_sync(0xffffffffU, all.sum, offset));
  }
  return all;
}

// A block a row. The first pass finds the row's maximum and sum and keeps as much of the row in shared memory as fits;
// the second writes softmax - target to `grads`, which may be the logits themselves. Rows start on 16 bytes.
template <class T, bool kGradient>
__global__ void __launch_bounds__(kThreads)
    loss_rows(const float* logits, T* grads, std::int64_t stride, std::int64_t grad_stride, int vocab,
              const std::int32_t* targets, float smoothing, float* losses) {
  extern __shared__ __align__(16) unsigned char memory[];
  float* kept = reinterpret_cast<float*>(memory);
  __shared__ Running scratch[32];
  __shared__ float sums[32];
  constexpr int kPack = 4;
  constexpr int kKeptPacks = kGradient ? static_cast<int>(kKept / 16) : 0;
  const std::int64_t row = blockIdx.x;
  const float* z = logits + row * stride;
  T* out = grads + row * grad_stride;
  const int target = targets[row];
  const int packs = vocab / kPack;
  const int tail = packs * kPack + threadIdx.x;

  if (target < 0) {  // -1: not trained on; -2: a label outside the vocabulary
    if (threadIdx.x == 0) losses[row] = target == -1 ? 0.0F : NAN;
    if constexpr (kGradient) {
      for (int i = threadIdx.x; i < packs; i += kThreads) store_pack(out + i * kPack, Pack<T, kPack>{});
      for (int i = tail; i < vocab; i += kThreads) out[i] = from_float<T>(0.0F);
    }
    return;
  }

  Running mine;
  float total = 0.0F;  // of the logits, for smoothing
  const auto take = [&](float value) {
    mine.add(value);
    total += value;
  };
  constexpr int kUnroll = 4;
  int i = threadIdx.x;
  for (; i + (kUnroll - 1) * kThreads < packs; i += kUnroll * kThreads) {
    Pack<float> pack[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) pack[u] = load_pack(z + (i + u * kThreads) * kPack);
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      if (i + u * kThreads < kKeptPacks) store_pack(kept + (i + u * kThreads) * kPack, pack[u]);
#pragma unroll
      for (int j = 0; j < kPack; ++j) take(pack[u][j]);
    }
  }
  for (; i < packs; i += kThreads) {
    const Pack<float> pack = load_pack(z + i * kPack);
    if (i < kKeptPacks) store_pack(kept + i * kPack, pack);
#pragma unroll
    for (int j = 0; j < kPack; ++j) take(pack[j]);
  }
  for (int j = tail; j < vocab; j += kThreads) take(z[j]);
  const float at_target = z[target];  // before anybody writes
  const Running all = merge_block(mine, scratch);
  if (smoothing != 0) total = block_sum<kThreads>(total, sums);
  if (threadIdx.x == 0) {
    const float below = all.top - total / static_cast<float>(vocab);  // mean of top - z
    losses[row] = logf(all.sum) + (1 - smoothing) * (all.top - at_target) + (smoothing != 0 ? smoothing * below : 0.0F);
  }
  if constexpr (kGradient) {
    const float inverse = 1.0F / all.sum;
    const float spread = smoothing / static_cast<float>(vocab);
    const auto slope = [&](float value, int column) {
      const float p = __expf(value - all.top) * inverse - spread;
      return from_float<T>(column == target ? p - (1 - smoothing) : p);
    };
#pragma unroll 4
    for (int k = threadIdx.x; k < packs; k += kThreads) {
      const Pack<float> pack = k < kKeptPacks ? load_pack(kept + k * kPack) : load_pack(z + k * kPack);
      Pack<T, kPack> slopes;
#pragma unroll
      for (int j = 0; j < kPack; ++j) slopes[j] = slope(pack[j], k * kPack + j);
      store_pack(out + k * kPack, slopes);
    }
    for (int j = tail; j < vocab; j += kThreads) out[j] = slope(z[j], j);
  }
}

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

// Tokens a chunk: at most a GiB of logits and their gradients, in pieces of one size.
std::int64_t chunk_for(std::int64_t tokens, std::int64_t row_bytes) {
  constexpr std::int64_t kBudget = std::int64_t{1} << 30;
  const std::int64_t most = std::max<std::int64_t>(kBudget / row_bytes, 128);
  const std::int64_t pieces = (tokens + most - 1) / most;
  const std::int64_t each = (tokens + pieces - 1) / pieces;
  return std::min(tokens, (each + 127) / 128 * 128);
}

Declined linear_cross_entropy_cuda(const Tensor& x, const Tensor& weight, const Tensor& labels, double label_smoothing,
                                   std::int64_t chunk, const Tensor& loss, const Tensor& token_losses, const Tensor& dx,
                                   const Tensor& dweight) {
  if (x.dtype() == DType::f64) return "f64";
  const bool rows_dense = weight.stride(1) == 1 && weight.stride(0) >= weight.size(1);
  const bool columns_dense = weight.stride(0) == 1 && weight.stride(1) >= weight.size(0);
  if (!rows_dense && !columns_dense) return "a weight with neither stride 1";
  const std::int64_t tokens = x.size(0);
  const std::int64_t vocab = weight.size(0);
  if (dweight.defined()) dweight.fill(0);
  if (tokens == 0) {
    loss.fill(0);
    return nullptr;
  }
  const Tensor inputs = x.stride(1) == 1 && x.stride(0) >= x.size(1) ? x : x.contiguous();
  const bool gradients = dx.defined() || dweight.defined();
  const bool in_place = x.dtype() == DType::f32;
  const std::int64_t stride = (vocab + 63) / 64 * 64;  // every row on a line of its own
  const auto element = static_cast<std::int64_t>(size_of(x.dtype()));
  const std::int64_t limit =
      std::min(tokens, chunk > 0 ? chunk : chunk_for(tokens, stride * (in_place ? 4 : 4 + element)));
  const Tensor buffer = Tensor::empty({limit, stride}, DType::f32, x.device());
  Tensor grad_buffer;
  if (gradients) grad_buffer = in_place ? buffer : Tensor::empty({limit, stride}, x.dtype(), x.device());
  const Tensor losses = token_losses.defined() ? token_losses : Tensor::empty({tokens}, DType::f32, x.device());
  for (std::int64_t start = 0; start < tokens; start += limit) {
    const std::int64_t count = std::min(limit, tokens - start);
    const auto cut = [&](const Tensor& t) { return t.slice(0, 0, count).slice(1, 0, vocab); };
    const Tensor logits = cut(buffer);
    const Tensor dlogits = gradients ? cut(grad_buffer) : Tensor();
    const Tensor rows = inputs.slice(0, start, count);
    gemm(rows, weight.transpose(0, 1), logits);
    visit_narrow(x.dtype(), [&](auto tag) {
      using T = decltype(tag);
      const auto run = [&](auto kernel, std::size_t shared, std::int64_t bytes) {
        launch({"cross-entropy", static_cast<double>(count * vocab * bytes)}, kernel,
               {.grid = {static_cast<unsigned>(count)}, .block = {kThreads}, .shared = shared}, pointer<float>(logits),
               pointer<T>(dlogits), stride, stride, static_cast<int>(vocab), pointer<std::int32_t>(labels) + start,
               static_cast<float>(label_smoothing), pointer<float>(losses) + start);
      };
      if (gradients) {
        run(loss_rows<T, true>, std::min(kKept, static_cast<std::size_t>(stride) * 4), 4 + element);
      } else {
        run(loss_rows<T, false>, 0, 4);
      }
    });
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
