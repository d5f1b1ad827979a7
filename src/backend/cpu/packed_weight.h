#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "wick/tensor.h"

namespace wick {

/// A frozen weight [n, k] in the layout that the CPU's library multiplies fastest, made once, and its products, of
/// which each row has the same bytes whatever else is multiplied with it, on any number of threads.
///
/// The library's f32 product does not: it chooses between three kernels by the number of rows (oneDNN 2.6 with AVX-512:
/// one row, up to 15, more), which sum in different orders. Here every product is made of tiles of a few heights, by a
/// primitive for one thread each, whose sums run over k in one order (tested); rows that fill up the last tile are
/// zeros.
class PackedWeight {
 public:
  /// Whether there is such a layout: f32 and bf16 on the CPU, not empty.
  static bool takes(const Tensor& weight);
  /// `weight`: one that takes() accepts, with dense rows. It is copied. Error(device) when the library fails.
  explicit PackedWeight(const Tensor& weight);

  std::int64_t rows() const noexcept { return rows_; }        ///< n
  std::int64_t columns() const noexcept { return columns_; }  ///< k
  DType dtype() const noexcept { return dtype_; }

  /// Part of a product x weightᵀ, not rounded: `values` are f32 [rows, columns], dense, at (row, column) of the whole.
  struct Tile {
    const float* values;
    std::int64_t row, rows, column, columns;
  };
  /// Computes x weightᵀ in tiles: x [m, k] of the weight's dtype, dense. finish() takes each of them once, from several
  /// threads at a time. Error(device) when the library fails.
  void multiply(const Tensor& x, const std::function<void(const Tile&)>& finish) const;

 private:
  struct Part;

  std::int64_t rows_;
  std::int64_t columns_;
  DType dtype_;
  std::vector<std::shared_ptr<const Part>> parts_;  // of the weight's rows
};

}  // namespace wick
