#include "backend/cuda/tensor_map.h"

#include <cudaTypedefs.h>

#include <algorithm>

#include "backend/cuda/runtime.h"
#include "core/fail.h"

namespace wick::cuda {
namespace {

// The driver's function; the library is not linked, so that programs start without it.
PFN_cuTensorMapEncodeTiled_v12000 encoder() {
  static const auto found = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult result = {};
    check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &result),
          "looking for cuTensorMapEncodeTiled");
    if (result != cudaDriverEntryPointSuccess) fail(ErrorCode::device, "[cuda] the driver has no tensor maps");
    return reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(function);
  }();
  return found;
}

// extents and box by dimension, the columns first; strides, in rows, of the other dimensions.
template <std::size_t kRank>
CUtensorMap encode(const Tensor& matrix, const cuuint64_t (&extents)[kRank], const std::int64_t (&strides)[kRank - 1],
                   const cuuint32_t (&box)[kRank], CUtensorMapSwizzle swizzle = CU_TENSOR_MAP_SWIZZLE_128B) {
  // The stride of a single row is nobody's business, but has to be a valid one.
  const std::int64_t row = matrix.size(0) > 1 ? matrix.stride(0) : matrix.size(1);
  cuuint64_t bytes[kRank - 1];
  cuuint32_t steps[kRank];
  std::fill_n(steps, kRank, 1U);
  for (std::size_t i = 0; i + 1 < kRank; ++i) {
    bytes[i] = static_cast<cuuint64_t>(strides[i] * row) * size_of(matrix.dtype());
  }
  CUtensorMap map = {};
  const CUtensorMapDataType type = matrix.dtype() == DType::f32    ? CU_TENSOR_MAP_DATA_TYPE_FLOAT32
                                   : matrix.dtype() == DType::bf16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
                                                                   : CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
  const CUresult status =
      encoder()(&map, type, kRank, matrix.raw(), extents, bytes, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle,
                CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (status != CUDA_SUCCESS) {
    fail(ErrorCode::device, "[cuda] a tensor map of {}: error {}", describe(matrix), static_cast<int>(status));
  }
  return map;
}

}  // namespace

CUtensorMap boxes_of(const Tensor& matrix, int rows, int columns) {
  return encode<2>(matrix, {static_cast<cuuint64_t>(matrix.size(1)), static_cast<cuuint64_t>(matrix.size(0))}, {1},
                   {static_cast<cuuint32_t>(columns), static_cast<cuuint32_t>(rows)});
}

CUtensorMap narrow_boxes_of(const Tensor& matrix, int rows) {
  return encode<2>(matrix, {static_cast<cuuint64_t>(matrix.size(1)), static_cast<cuuint64_t>(matrix.size(0))}, {1},
                   {16, static_cast<cuuint32_t>(rows)}, CU_TENSOR_MAP_SWIZZLE_32B);
}

CUtensorMap half_boxes_of(const Tensor& matrix, int rows) {
  return encode<2>(matrix, {static_cast<cuuint64_t>(matrix.size(1)), static_cast<cuuint64_t>(matrix.size(0))}, {1},
                   {32, static_cast<cuuint32_t>(rows)}, CU_TENSOR_MAP_SWIZZLE_64B);
}

CUtensorMap row_boxes_of(const Tensor& matrix, int columns) {
  return encode<2>(matrix, {static_cast<cuuint64_t>(matrix.size(1)), static_cast<cuuint64_t>(matrix.size(0))}, {1},
                   {static_cast<cuuint32_t>(columns), 1}, CU_TENSOR_MAP_SWIZZLE_NONE);
}

// fragment_row() takes r % 2, r % 8 / 2 and r / 8 apart, which are dimensions here.
CUtensorMap fragment_boxes_of(const Tensor& matrix, int rows, int columns) {
  return encode<5>(matrix,
                   {static_cast<cuuint64_t>(matrix.size(1)), 2, 4, 4, static_cast<cuuint64_t>(matrix.size(0) / 32)},
                   {1, 8, 2, 32}, {static_cast<cuuint32_t>(columns), 2, 4, 4, static_cast<cuuint32_t>(rows / 32)});
}

}  // namespace wick::cuda
