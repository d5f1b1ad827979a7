// Where the sequences of a packed batch lie, in the form that cuDNN reads.

#include "backend/cuda/kernels.cuh"
#include "ops/attention/attention_cuda.h"

namespace wick::cuda {
namespace {

constexpr int kThreads = 256;

// Offsets come from nobody who checked them: starts stay inside, lengths are at most `longest`.
__global__ void __launch_bounds__(kThreads)
    packed_index_kernel(const std::int32_t* offsets, int sequences, int tokens, int longest, PackedIndexRows rows,
                        std::int64_t* starts) {
  wait_for_previous();
  allow_next();
  auto* lengths = reinterpret_cast<std::int32_t*>(starts + rows.rows * rows.row_elements);
  const auto at = [&](int i) { return ::min(::max(offsets[i], 0), tokens); };
  for (int i = static_cast<int>(threadIdx.x); i <= sequences; i += kThreads) {
    const int start = at(i);
    for (int r = 0; r < rows.rows; ++r) starts[r * rows.row_elements + i] = start * rows.multipliers[r];
    if (i < sequences) lengths[i] = ::min(::max(at(i + 1) - start, 0), longest);
  }
}

}  // namespace

void fill_packed_index(const Tensor& offsets, std::int64_t tokens, std::int64_t longest, const PackedIndexRows& rows,
                       const Tensor& index) {
  launch({"attention index"}, packed_index_kernel, {.grid = dim3(1), .block = dim3(kThreads), .overlap = true},
         pointer<std::int32_t>(offsets), static_cast<int>(offsets.numel() - 1), static_cast<int>(tokens),
         static_cast<int>(longest), rows, pointer<std::int64_t>(index));
}

}  // namespace wick::cuda
