#pragma once

#include "backend/backend.h"

namespace wick::cuda {

/// The primitive operations of CUDA's backend: plain kernels over any strides (primitives.cu).
class Primitives : public Backend {
 public:
  void fill(const Tensor& t, double value) override;
  void unary(Unary op, const Tensor& x, double value, const Tensor& y) override;
  void binary(Binary op, const Tensor& a, const Tensor& b, const Tensor& y) override;
  void add_into(const Tensor& source, const Tensor& target) override;
  void scale(const Tensor& t, const Tensor& by) override;
  void advance(const Tensor& counter, std::int32_t by) override;
  void where(const Tensor& mask, const Tensor& x, double value, const Tensor& y) override;
  void reduce(Reduction op, const Tensor& x, int dim, const Tensor& y) override;
  void gather_rows(const Tensor& x, const Tensor& indices, const Tensor& y) override;
  void add_rows(const Tensor& dy, const Tensor& indices, const Tensor& dx) override;
  void gather_columns(const Tensor& x, const Tensor& indices, const Tensor& y) override;
  void scatter_columns(const Tensor& dy, const Tensor& indices, const Tensor& dx) override;
  void fill_uniform(const Tensor& t, double low, double high, const Stream& stream, std::uint64_t first_block) override;
  void dropout(const Tensor& x, const Dropout& options, const Tensor& y) override;

 protected:
  static void copy_strided(const Tensor& from, const Tensor& to);  ///< both on one device
};

}  // namespace wick::cuda
