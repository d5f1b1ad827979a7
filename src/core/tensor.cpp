#include "wick/tensor.h"

#include <algorithm>
#include <cstring>

#include "backend/backend.h"
#include "core/dispatch.h"
#include "core/fail.h"
#include "core/strided.h"

namespace wick {
namespace {

std::size_t byte_size(const Shape& shape, DType dtype) {
  std::int64_t bytes = 0;
  if (__builtin_mul_overflow(numel(shape), static_cast<std::int64_t>(size_of(dtype)), &bytes)) {
    fail(ErrorCode::invalid_argument, "a tensor of shape {} is too large", to_string(shape));
  }
  return static_cast<std::size_t>(bytes);
}

template <class To, class From>
void convert_all(const Tensor& source, const Tensor& target) {
  for_each_strided<const From, To>(source, target, [](const From& from, To& to) { to = convert<To>(from); });
}

}  // namespace

Tensor Tensor::view_of(std::shared_ptr<Storage> storage, std::size_t byte_offset, const Shape& shape, DType dtype) {
  const std::size_t bytes = byte_size(shape, dtype);
  if (byte_offset > storage->bytes() || bytes > storage->bytes() - byte_offset) {
    fail(ErrorCode::invalid_argument, "a {} {} tensor at byte {} does not fit in {} bytes", to_string(dtype),
         to_string(shape), byte_offset, storage->bytes());
  }
  if (reinterpret_cast<std::uintptr_t>(storage->data() + byte_offset) % size_of(dtype) != 0 ||
      byte_offset % size_of(dtype) != 0) {
    fail(ErrorCode::invalid_argument, "byte {} is not aligned for {}", byte_offset, to_string(dtype));
  }
  Tensor t;
  t.storage_ = std::move(storage);
  t.offset_ = static_cast<std::int64_t>(byte_offset / size_of(dtype));
  t.shape_ = shape;
  t.numel_ = wick::numel(shape);
  t.strides_ = contiguous_strides(shape);
  t.dtype_ = dtype;
  return t;
}

Tensor Tensor::empty(const Shape& shape, DType dtype, Device device) {
  return view_of(Storage::allocate(byte_size(shape, dtype), device), 0, shape, dtype);
}

Tensor Tensor::zeros(const Shape& shape, DType dtype, Device device) {
  Tensor t = empty(shape, dtype, device);
  if (t.numel_ != 0) t.fill(0);
  return t;
}

Tensor Tensor::full(const Shape& shape, double value, DType dtype, Device device) {
  Tensor t = empty(shape, dtype, device);
  t.fill(value);
  return t;
}

void Tensor::fill(double value) const {
  if (!defined()) fail_undefined();
  if (!storage_->writable()) fail(ErrorCode::invalid_argument, "fill of a read-only tensor");
  if (Backend* device = accelerator(*this)) return device->fill(*this, value);
  visit_any(dtype_, [&](auto tag) {
    using T = decltype(tag);
    const T filled = convert<T>(value);
    if (is_contiguous()) {
      std::fill_n(data<T>(), numel_, filled);
    } else {
      for_each_strided<const T, T>(*this, *this, [filled](const T&, T& to) { to = filled; });
    }
  });
}

Tensor Tensor::from_bytes(std::span<const std::byte> bytes, const Shape& shape, DType dtype) {
  if (bytes.size() != byte_size(shape, dtype)) {
    fail(ErrorCode::invalid_argument, "{} values of {} do not make a tensor of shape {}", bytes.size() / size_of(dtype),
         to_string(dtype), to_string(shape));
  }
  Tensor t = empty(shape, dtype);
  if (!bytes.empty()) std::memcpy(t.raw(), bytes.data(), bytes.size());
  return t;
}

Tensor Tensor::bordered(const Shape& shape, std::int64_t border, DType dtype, Device device) {
  if (border == 0) return empty(shape, dtype, device);
  Shape wide = shape;
  wide[-1] = bordered_row(shape[-1], border, dtype, device.type);
  Tensor t = empty(wide, dtype, device);
  t.storage_->border_ = wide[-1] - shape[-1];
  t.storage_->border_row_ = wide[-1];
  return t.slice(-1, 0, shape[-1]);
}

std::int64_t Tensor::bordered_row(std::int64_t columns, std::int64_t border, DType dtype, DeviceType device) noexcept {
  if (border == 0 || device == DeviceType::cpu) return columns + border;
  const auto line = 128 / static_cast<std::int64_t>(size_of(dtype));
  return (columns + border + line - 1) / line * line;
}

Tensor Tensor::border_columns() const {
  if (!defined() || storage_->border() == 0 || rank() < 1 || offset_ != 0) return {};
  const std::int64_t columns = shape_[-1];
  const std::int64_t row = storage_->border_row_;
  if (columns + storage_->border() != row) return {};  // some of the columns, or more
  const std::int64_t rows = columns == 0 ? 0 : numel_ / columns;
  const auto whole = static_cast<std::size_t>(rows * row) * size_of(dtype_);
  if (whole != storage_->bytes() || rows == 0) return {};
  std::int64_t expected = row;
  for (int i = rank() - 2; i >= 0; expected *= shape_[i], --i) {
    if (shape_[i] != 1 && strides_[i] != expected) return {};
  }
  if (strides_[-1] != 1 && columns != 1) return {};
  Tensor t = *this;
  t.slot_ = nullptr;
  t.offset_ = columns;
  t.shape_ = {rows, storage_->border()};
  t.strides_ = {row, 1};
  t.numel_ = rows * storage_->border();
  return t;
}

bool Tensor::is_contiguous() const noexcept {
  std::int64_t expected = 1;
  for (int i = rank() - 1; i >= 0; --i) {
    if (shape_[i] != 1 && strides_[i] != expected && numel_ != 0) return false;
    expected *= shape_[i];
  }
  return true;
}

void Tensor::fail_undefined() { fail(ErrorCode::invalid_argument, "an undefined tensor has no data"); }

void Tensor::check_dtype(DType wanted) const {
  if (!defined()) fail_undefined();
  if (dtype_ != wanted) {
    fail(ErrorCode::invalid_argument, "a {} tensor was read as {}", to_string(dtype_), to_string(wanted));
  }
}

double Tensor::item() const {
  if (numel_ != 1) fail(ErrorCode::invalid_argument, "item() of a tensor of shape {}", to_string(shape_));
  if (accelerator(*this) != nullptr) return to(Device::cpu()).item();
  return visit_any(dtype_, [&](auto tag) { return convert<double>(*data<decltype(tag)>()); });
}

Tensor Tensor::view(const Shape& wanted) const {
  if (!defined()) fail_undefined();
  Shape shape = wanted;
  int unknown = -1;
  for (int i = 0; i < shape.rank(); ++i) {
    if (shape[i] != -1) continue;
    if (unknown >= 0) fail(ErrorCode::invalid_argument, "view({}) has two unknown extents", to_string(wanted));
    unknown = i;
    shape[i] = 1;
  }
  if (unknown >= 0) {
    const std::int64_t known = wick::numel(shape);
    shape[unknown] = known == 0 ? 0 : numel_ / known;
  }
  if (wick::numel(shape) != numel_) {
    fail(ErrorCode::invalid_argument, "view({}) of a tensor of shape {}", to_string(wanted), to_string(shape_));
  }
  Tensor t = detach();
  t.shape_ = shape;
  t.strides_ = contiguous_strides(shape);
  if (numel_ == 0 || is_contiguous()) return t;
  // Merge the old dimensions into runs that are dense within themselves, then cut each run, from its end, into new
  // ones.
  Shape runs;
  Strides steps;
  for (int i = 0; i < rank(); ++i) {
    if (shape_[i] == 1) continue;
    if (runs.rank() > 0 && steps[-1] == strides_[i] * shape_[i]) {
      runs[-1] *= shape_[i];
      steps[-1] = strides_[i];
    } else {
      runs.push_back(shape_[i]);
      steps.push_back(strides_[i]);
    }
  }
  int run = runs.rank() - 1;
  std::int64_t rest = runs[run];  // of this run, not yet cut
  std::int64_t step = steps[run];
  for (int i = shape.rank() - 1; i >= 0; --i) {
    if (shape[i] != 1 && rest == 1) {
      --run;
      rest = runs[run];
      step = steps[run];
    }
    t.strides_[i] = step;
    if (rest % shape[i] != 0) {
      fail(ErrorCode::invalid_argument, "view({}) of a tensor of shape {} and strides {} needs a copy",
           to_string(wanted), to_string(shape_), to_string(strides_));
    }
    rest /= shape[i];
    step *= shape[i];
  }
  return t;
}

Tensor Tensor::permute(std::span<const int> order) const {
  if (static_cast<int>(order.size()) != rank()) {
    fail(ErrorCode::invalid_argument, "permute() with {} numbers of a tensor of shape {}", order.size(),
         to_string(shape_));
  }
  Tensor t = detach();
  std::array<bool, Dims::kMaxRank> used{};
  for (int i = 0; i < rank(); ++i) {
    const int from = shape_.wrap(order[static_cast<std::size_t>(i)]);
    if (used[static_cast<std::size_t>(from)])
      fail(ErrorCode::invalid_argument, "permute() names dimension {} twice", from);
    used[static_cast<std::size_t>(from)] = true;
    t.shape_[i] = shape_[from];
    t.strides_[i] = strides_[from];
  }
  return t;
}

Tensor Tensor::transpose(int a, int b) const {
  Tensor t = detach();
  std::swap(t.shape_[a], t.shape_[b]);
  std::swap(t.strides_[a], t.strides_[b]);
  return t;
}

Tensor Tensor::slice(int dim, std::int64_t start, std::int64_t length) const {
  const std::int64_t extent = shape_[dim];
  if (start < 0 || length < 0 || start > extent || length > extent - start) {
    fail(ErrorCode::invalid_argument, "slice [{}, {} + {}) of dimension {} of a tensor of shape {}", start, start,
         length, dim, to_string(shape_));
  }
  Tensor t = detach();
  t.shape_[dim] = length;
  t.numel_ = wick::numel(t.shape_);
  if (t.numel_ != 0) t.offset_ += start * strides_[dim];
  return t;
}

Tensor Tensor::select(int dim, std::int64_t index) const {
  Tensor t = slice(dim, index, 1);
  const int at = shape_.wrap(dim);
  t.shape_.erase(at);
  t.strides_.erase(at);
  return t;
}

Tensor Tensor::expand(const Shape& shape) const {
  if (!defined()) fail_undefined();
  Tensor t = detach();
  t.shape_ = shape;
  t.strides_ = shape;
  for (int i = 1; i <= shape.rank(); ++i) {
    const bool own = i <= rank();
    if (own && shape_[-i] != shape[-i] && shape_[-i] != 1) {
      fail(ErrorCode::invalid_argument, "expand({}) of a tensor of shape {}", to_string(shape), to_string(shape_));
    }
    t.strides_[-i] = own && shape_[-i] == shape[-i] ? strides_[-i] : 0;
  }
  if (shape.rank() < rank()) {
    fail(ErrorCode::invalid_argument, "expand({}) of a tensor of shape {}", to_string(shape), to_string(shape_));
  }
  t.numel_ = wick::numel(shape);
  return t;
}

Tensor Tensor::as_strided(const Shape& shape, const Strides& strides) const {
  if (!defined()) fail_undefined();
  Tensor t = detach();
  t.shape_ = shape;
  t.strides_ = strides;
  t.numel_ = wick::numel(shape);
  bool inside = shape.rank() == strides.rank();
  std::int64_t end = offset_ + 1;  // one past the last element
  for (int i = 0; inside && i < shape.rank(); ++i) {
    std::int64_t reach = 0;
    inside = strides[i] >= 0 && !__builtin_mul_overflow(std::max<std::int64_t>(shape[i] - 1, 0), strides[i], &reach) &&
             !__builtin_add_overflow(end, reach, &end);
  }
  if (inside && t.numel_ != 0) inside = end <= static_cast<std::int64_t>(storage_->bytes() / size_of(dtype_));
  if (!inside) {
    fail(ErrorCode::invalid_argument, "as_strided({}, {}) leaves the storage", to_string(shape), to_string(strides));
  }
  return t;
}

Tensor Tensor::contiguous() const { return is_contiguous() ? *this : clone(); }

Tensor Tensor::clone() const {
  Tensor t = empty(shape_, dtype_, device());
  t.copy_from(*this);
  return t;
}

Tensor Tensor::to(DType dtype) const {
  if (!defined()) fail_undefined();
  if (dtype == dtype_) return *this;
  Tensor t = empty(shape_, dtype, device());
  t.copy_from(*this);
  return t;
}

Tensor Tensor::to(Device device) const {
  if (device == this->device()) return *this;
  Tensor t = empty(shape_, dtype_, device);
  t.copy_from(*this);
  return t;
}

void Tensor::copy_from(const Tensor& source) const {
  if (!defined() || !source.defined()) fail_undefined();
  if (source.shape_ != shape_) {
    fail(ErrorCode::invalid_argument, "copy of shape {} into shape {}", to_string(source.shape_), to_string(shape_));
  }
  if (!storage_->writable()) fail(ErrorCode::invalid_argument, "copy into a read-only tensor");
  if (numel_ == 0) return;
  if (device() != source.device()) {
    // Dense and of one dtype across; what has to be converted is converted where the narrower type crosses.
    const bool early = size_of(dtype_) < size_of(source.dtype_);
    const Tensor from = (early ? source.to(dtype_) : source).contiguous();
    const bool direct = from.dtype_ == dtype_ && is_contiguous();
    const Tensor arrived = direct ? *this : empty(shape_, from.dtype_, device());
    backend(device().type == DeviceType::cpu ? from.device() : device()).copy(from, arrived);
    if (!direct) copy_from(arrived);
    return;
  }
  if (Backend* device = accelerator(*this)) return device->copy(source, *this);
  if (dtype_ == source.dtype_ && is_contiguous() && source.is_contiguous()) {
    std::memmove(raw(), source.raw(), static_cast<std::size_t>(numel_) * size_of(dtype_));
    return;
  }
  visit_any(source.dtype_, [&](auto from) {
    visit_any(dtype_, [&](auto to) { convert_all<decltype(to), decltype(from)>(source, *this); });
  });
}

Tensor Tensor::detach() const {
  Tensor t = *this;
  t.slot_ = nullptr;
  return t;
}

std::string describe(const Tensor& tensor) {
  if (!tensor.defined()) return "undefined";
  return fmt::format("{} {}", to_string(tensor.dtype()), to_string(tensor.shape()));
}

}  // namespace wick
