#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "wick/device.h"
#include "wick/dtype.h"
#include "wick/shape.h"

namespace wick {

struct GradSlot;

/// A block of memory on a device. It owns what it holds: heap memory, or whatever `owner` keeps alive (a mapped file).
class Storage {
 public:
  /// Uninitialised memory aligned to 64 bytes. Error(out_of_memory) with the size, Error(unsupported) for a device that
  /// this program or machine does not have.
  static std::shared_ptr<Storage> allocate(std::size_t bytes, Device device);
  /// Foreign memory, kept alive by `owner` (null: it outlives every use); never written to when `writable` is false.
  static std::shared_ptr<Storage> wrap(std::byte* data, std::size_t bytes, std::shared_ptr<const void> owner,
                                       bool writable, Device device = Device::cpu());
  ~Storage();
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;

  std::byte* data() const noexcept { return data_; }
  std::size_t bytes() const noexcept { return bytes_; }
  Device device() const noexcept { return device_; }
  bool writable() const noexcept { return writable_; }
  /// Spare columns that follow each row of the one matrix this storage was made for (Tensor::bordered), else 0.
  std::int64_t border() const noexcept { return border_; }
  /// True for the first caller only: the border is one reader's scratch, a second reader has to do without.
  bool claim_border() noexcept { return border_ != 0 && !std::exchange(border_claimed_, true); }

 private:
  friend class Tensor;
  Storage(std::byte* data, std::size_t bytes, Device device, std::shared_ptr<const void> owner, bool writable);

  std::byte* data_;
  std::size_t bytes_;
  Device device_;
  std::shared_ptr<const void> owner_;
  bool writable_;
  std::int64_t border_ = 0;
  std::int64_t border_row_ = 0;  // elements from one row of that matrix to the next
  bool border_claimed_ = false;
  bool allocated_ = false;  // by this library: freed with it
  void* handle_ = nullptr;  // the accelerator's, of what it allocated
};

/// A typed, strided view of a Storage; copying a Tensor copies the handle. Shapes are row-major by default, strides
/// count elements. Members never record on the tape: a view made here is detached from it. The functions in ops.h
/// record.
class Tensor {
 public:
  Tensor() = default;  ///< undefined: defined() is false, everything else is an error

  static Tensor empty(const Shape& shape, DType dtype, Device device = Device::cpu());  ///< uninitialised
  static Tensor zeros(const Shape& shape, DType dtype, Device device = Device::cpu());
  static Tensor full(const Shape& shape, double value, DType dtype, Device device = Device::cpu());
  /// A copy of host values.
  template <class T>
  static Tensor from(std::span<const T> values, const Shape& shape) {
    return from_bytes(std::as_bytes(values), shape, dtype_of<T>);
  }
  template <class T>
  static Tensor from(const std::vector<T>& values, const Shape& shape) {
    return from(std::span<const T>(values), shape);
  }
  /// A view of `storage` at a byte offset. Error(invalid_argument) unless it lies inside and is aligned to its type.
  static Tensor view_of(std::shared_ptr<Storage> storage, std::size_t byte_offset, const Shape& shape, DType dtype);
  /// An uninitialised matrix [..., columns] whose rows are followed by `border` spare columns, for the bordered LoRA
  /// linear: whoever reads this tensor may use border_columns() as scratch that lies beside it.
  static Tensor bordered(const Shape& shape, std::int64_t border, DType dtype, Device device = Device::cpu());
  /// Elements from one row of such a matrix to the next: columns + border, on a GPU up to the next line of 128 bytes,
  /// which is what its copies and caches count in; columns without a border.
  static std::int64_t bordered_row(std::int64_t columns, std::int64_t border, DType dtype, DeviceType device) noexcept;

  bool defined() const noexcept { return storage_ != nullptr; }
  const Shape& shape() const noexcept { return shape_; }
  const Strides& strides() const noexcept { return strides_; }
  int rank() const noexcept { return shape_.rank(); }
  std::int64_t size(int dim) const { return shape_[dim]; }
  std::int64_t stride(int dim) const { return strides_[dim]; }
  std::int64_t numel() const noexcept { return numel_; }
  DType dtype() const noexcept { return dtype_; }
  Device device() const {
    if (!defined()) fail_undefined();
    return storage_->device();
  }
  bool is_contiguous() const noexcept;
  const std::shared_ptr<Storage>& storage() const noexcept { return storage_; }

  /// The first element. T must match dtype(): Error(invalid_argument) otherwise. Host memory only on CPU tensors.
  template <class T>
  T* data() const {
    check_dtype(dtype_of<T>);
    return reinterpret_cast<T*>(raw());
  }
  std::byte* raw() const noexcept { return storage_->data() + static_cast<std::size_t>(offset_) * size_of(dtype_); }
  /// The only element of a one-element tensor, as double. Waits for the device.
  double item() const;
  /// The elements in row-major order, copied to the host. T must match dtype().
  template <class T>
  std::vector<T> to_vector() const {
    const Tensor dense = contiguous().to(Device::cpu());
    return std::vector<T>(dense.data<T>(), dense.data<T>() + numel());
  }

  // Views (no copy). Error(invalid_argument) when the view does not exist.
  Tensor view(const Shape& shape) const;  ///< one extent may be -1
  Tensor permute(std::span<const int> order) const;
  Tensor transpose(int a, int b) const;
  Tensor slice(int dim, std::int64_t start, std::int64_t length) const;
  Tensor select(int dim, std::int64_t index) const;                     ///< slice of length 1, dimension dropped
  Tensor expand(const Shape& shape) const;                              ///< broadcast with stride 0
  Tensor as_strided(const Shape& shape, const Strides& strides) const;  ///< bounds are checked
  /// For a tensor made by bordered(): the spare columns beside it, [rows, border]; undefined for any other tensor.
  Tensor border_columns() const;

  Tensor contiguous() const;                   ///< itself when it is already, else a dense copy
  Tensor to(DType dtype) const;                ///< itself when it already is, else a converted dense copy
  Tensor to(Device device) const;              ///< itself when it is there already, else a dense copy
  Tensor clone() const;                        ///< a dense copy
  void copy_from(const Tensor& source) const;  ///< same shape; converts the dtype, crosses devices
  void fill(double value) const;

  /// Autograd's handle: null when no trainable parameter leads here (see autograd.h).
  const std::shared_ptr<GradSlot>& slot() const noexcept { return slot_; }
  void set_slot(std::shared_ptr<GradSlot> slot) noexcept { slot_ = std::move(slot); }
  bool needs_grad() const noexcept { return slot_ != nullptr; }
  Tensor detach() const;  ///< the same data without the slot

 private:
  static Tensor from_bytes(std::span<const std::byte> bytes, const Shape& shape, DType dtype);
  void check_dtype(DType wanted) const;
  [[noreturn]] static void fail_undefined();

  std::shared_ptr<Storage> storage_;
  std::int64_t offset_ = 0;  // elements
  std::int64_t numel_ = 0;
  Shape shape_;
  Strides strides_;
  DType dtype_ = DType::f32;
  std::shared_ptr<GradSlot> slot_;
};

/// "f32 [2, 3]"
std::string describe(const Tensor& tensor);

}  // namespace wick
