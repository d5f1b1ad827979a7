#include "ops/embedding/embedding.h"

#include "backend/cuda/kernels.cuh"

namespace wick::cuda {
namespace {

constexpr int kGatherThreads = 256;

// Rows as they are, in units of 1 element or 16 bytes. All bits set is NaN in every floating type.
template <class Unit>
__global__ void __launch_bounds__(kGatherThreads)
    gather(const Unit* table, std::int64_t table_stride, std::int64_t table_rows, const std::int32_t* ids, Unit* y,
           std::int64_t units, unsigned per_row) {
  wait_for_previous();
  allow_next();
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kGatherThreads + threadIdx.x;
  if (i >= units) return;
  const std::int64_t id = ids[i / per_row];
  Unit value;
  if (id >= 0 && id < table_rows) {
    value = table[id * table_stride + i % per_row];
  } else {
    memset(&value, 0xFF, sizeof value);
  }
  y[i] = value;
}

template <class Unit>
void launch_gather(const Tensor& table, const Tensor& ids, const Tensor& y) {
  const auto element = static_cast<std::int64_t>(size_of(y.dtype()));
  const auto unit = static_cast<std::int64_t>(sizeof(Unit));
  const std::int64_t units = y.numel() * element / unit;
  const Work work{.name = "embedding", .bytes = 2.0 * static_cast<double>(y.numel() * element)};
  launch(work, gather<Unit>, {.grid = blocks_for(units, kGatherThreads), .block = kGatherThreads, .overlap = true},
         pointer<Unit>(table), table.stride(0) * element / unit, table.size(0), pointer<std::int32_t>(ids),
         pointer<Unit>(y), units, static_cast<unsigned>(y.size(1) * element / unit));
}

Declined embedding_forward_cuda(const Tensor& table, const Tensor& ids, const Tensor& y) {
  if (table.stride(1) != 1 && table.size(1) != 1) return "a table with strided columns";
  if (y.numel() == 0) return nullptr;
  const std::size_t element = size_of(y.dtype());
  if (static_cast<std::size_t>(y.size(1)) * element % 16 == 0 && packs(table) && packs(y)) {
    launch_gather<uint4>(table, ids, y);
  } else if (element == 8) {
    launch_gather<std::uint64_t>(table, ids, y);
  } else if (element == 4) {
    launch_gather<std::uint32_t>(table, ids, y);
  } else {
    launch_gather<std::uint16_t>(table, ids, y);
  }
  return nullptr;
}

constexpr int kSumThreads = 128;
constexpr int kSumWarps = kSumThreads / 32;
constexpr int kScan = 8;  // ids that a thread looks at between two barriers

// A block a token (x) and kSumThreads packs of columns (y). The block of an id's first token sums the rows of all its
// tokens in order, the others leave: no atomics, and every row of the table is written once. The ids are compared
// tokens²/2 times, which is little beside the rows up to some 10,000 tokens.
template <class T, int kPack>
__global__ void __launch_bounds__(kSumThreads)
    sum_rows(const T* dy, std::int64_t dy_stride, const std::int32_t* ids, int tokens, T* dtable,
             std::int64_t dtable_stride, std::int64_t table_rows, std::int64_t columns) {
  __shared__ int matches[kSumThreads];
  __shared__ int counts[kSumWarps];
  wait_for_previous();
  allow_next();
  const int thread = static_cast<int>(threadIdx.x);
  const int token = static_cast<int>(blockIdx.x);
  const std::int32_t id = ids[token];
  if (id < 0 || id >= table_rows) return;

  bool earlier = false;
  for (int i = thread; i < token; i += kSumThreads) earlier |= ids[i] == id;
  if (__syncthreads_or(earlier) != 0) return;

  const std::int64_t column = (static_cast<std::int64_t>(blockIdx.y) * kSumThreads + thread) * kPack;
  const bool mine = column < columns;
  float sum[kPack];
#pragma unroll
  for (int e = 0; e < kPack; ++e) sum[e] = 0;
  const auto add_row = [&](int row) {
    if (!mine) return;
    const Pack<T, kPack> g = load_pack<T, kPack>(dy + row * dy_stride + column);
#pragma unroll
    for (int e = 0; e < kPack; ++e) sum[e] += to_float(g[e]);
  };
  add_row(token);
  for (int start = token + 1; start < tokens; start += kScan * kSumThreads) {
    unsigned hits = 0;
#pragma unroll
    for (int k = 0; k < kScan; ++k) {
      const int i = start + k * kSumThreads + thread;
      hits |= static_cast<unsigned>(i < tokens && ids[i] == id) << k;
    }
    if (__syncthreads_or(static_cast<int>(hits)) == 0) continue;
    for (int k = 0; k < kScan; ++k) {  // the matches of kSumThreads ids side by side and in order
      const bool match = (hits >> k & 1U) != 0;
      const unsigned votes = __ballot_sync(0xffffffffU, match);
      if (thread % 32 == 0) counts[thread / 32] = __popc(votes);
      __syncthreads();
      int before = __popc(votes & ((1U << (thread % 32)) - 1U));
      int total = 0;
#pragma unroll
      for (int w = 0; w < kSumWarps; ++w) {
        if (w < thread / 32) before += counts[w];
        total += counts[w];
      }
      if (match) matches[before] = start + k * kSumThreads + thread;
      __syncthreads();
#pragma unroll 8
      for (int m = 0; m < total; ++m) add_row(matches[m]);
    }
  }
  if (!mine) return;
  Pack<T, kPack> result;
#pragma unroll
  for (int e = 0; e < kPack; ++e) result[e] = from_float<T>(sum[e]);
  store_pack(dtable + id * dtable_stride + column, result);
}

Declined embedding_backward_cuda(const Tensor& dy, const Tensor& ids, const Tensor& dtable) {
  if (dy.dtype() == DType::f64) return "f64";
  if (dy.numel() == 0) return nullptr;
  if (dy.size(0) >= std::int64_t{1} << 30) return "2^30 tokens and more";
  return visit_narrow(dy.dtype(), [&](auto tag) -> Declined {
    using T = decltype(tag);
    constexpr int kPack = Pack<T>::kSize;
    const bool packed = dy.size(1) % kPack == 0 && packs(dy) && packs(dtable);
    const unsigned tiles = blocks_for(dy.size(1), kSumThreads * (packed ? kPack : 1));
    if (tiles > 65535) return "rows of more than 2^22 elements";
    const Work work{.name = "embedding backward", .bytes = 2.0 * static_cast<double>(dy.numel()) * sizeof(T)};
    launch(work, packed ? sum_rows<T, kPack> : sum_rows<T, 1>,
           {.grid = {static_cast<unsigned>(dy.size(0)), tiles}, .block = kSumThreads, .overlap = true}, pointer<T>(dy),
           dy.stride(0), pointer<std::int32_t>(ids), static_cast<int>(dy.size(0)), pointer<T>(dtable), dtable.stride(0),
           dtable.size(0), dy.size(1));
    return nullptr;
  });
}

}  // namespace

void register_embedding() {
  embedding_forward.on(DeviceType::cuda) = embedding_forward_cuda;
  embedding_backward.on(DeviceType::cuda) = embedding_backward_cuda;
}

}  // namespace wick::cuda
