#pragma once

#include <cuda.h>

#include "wick/tensor.h"

namespace wick::cuda {

/// For the copy engine of Hopper: boxes of `rows` x `columns` of a bf16 or f16 matrix with dense columns, whose rows
/// start on 16 bytes. A box has rows of 128 bytes in shared memory, chunk c of 16 bytes of row r at c ^ (r % 8); what
/// lies outside of the matrix is zeros. Error(device) naming what the driver says.
CUtensorMap boxes_of(const Tensor& matrix, int rows, int columns);

/// Boxes of `rows` x 16 columns of such a matrix, whose rows have 32 bytes in shared memory: chunk c of 16 bytes of row
/// r at c ^ (r / 4 % 2).
CUtensorMap narrow_boxes_of(const Tensor& matrix, int rows);
/// Boxes of `rows` x 32 columns, whose rows have 64 bytes: chunk c of 16 bytes of row r at c ^ (r / 2 % 4).
CUtensorMap half_boxes_of(const Tensor& matrix, int rows);

/// Boxes of `columns`, 256 at most, of a row of an f32 matrix whose rows start on 16 bytes, as they lie there. A box
/// begins on 16 bytes too: where it does not, the device stops with an illegal instruction.
CUtensorMap row_boxes_of(const Tensor& matrix, int columns);

/// The same as boxes_of() of a weight whose rows come in another order: row r of a box is 32 (r / 32) +
/// fragment_row(r % 32) of the matrix, from where the box begins. With these, the columns of a product that a thread
/// gets are 8 side by side in each 32. A box is named by its first column, three zeros, and its first row over 32. The
/// matrix has a multiple of 32 rows.
CUtensorMap fragment_boxes_of(const Tensor& matrix, int rows, int columns);
constexpr int fragment_row(int r) { return r % 8 / 2 * 8 + r / 8 * 2 + r % 2; }

}  // namespace wick::cuda
