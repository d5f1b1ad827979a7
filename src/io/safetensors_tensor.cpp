#include <array>
#include <cstdint>
#include <cstring>
#include <utility>

#include "core/fail.h"
#include "io/quote.h"
#include "wick/safetensors.h"

namespace wick {
namespace {

constexpr std::array<std::pair<std::string_view, DType>, 6> kDTypes{{{"F32", DType::f32},
                                                                     {"BF16", DType::bf16},
                                                                     {"F16", DType::f16},
                                                                     {"F64", DType::f64},
                                                                     {"I32", DType::i32},
                                                                     {"I64", DType::i64}}};

DType dtype_of_entry(const SafetensorsEntry& entry) {
  for (const auto& [name, dtype] : kDTypes) {
    if (name == entry.dtype) return dtype;
  }
  fail(ErrorCode::unsupported, "tensor {}: dtype {} is not supported (F32, BF16, F16, F64, I32, I64 are)",
       quote(entry.name), quote(entry.dtype));
}

// The shape, if it is one that Tensor takes and that `entry.bytes` holds.
Shape shape_of_entry(const SafetensorsEntry& entry, DType dtype) {
  Shape shape;
  std::int64_t elements = 0;
  try {
    shape = Shape(std::span(entry.shape));
    elements = numel(shape);
  } catch (const Error& error) {
    fail(ErrorCode::unsupported, "tensor {}: shape [{}] is not supported: {}", quote(entry.name),
         fmt::join(entry.shape, ", "), error.what());
  }
  if (entry.bytes.size() % size_of(dtype) != 0 ||
      entry.bytes.size() / size_of(dtype) != static_cast<std::size_t>(elements)) {
    fail(ErrorCode::invalid_argument, "tensor {}: {} bytes are not {} elements of {}", quote(entry.name),
         entry.bytes.size(), elements, entry.dtype);
  }
  return shape;
}

}  // namespace

Tensor load_tensor(const SafetensorsEntry& entry) {
  const DType dtype = dtype_of_entry(entry);
  const Shape shape = shape_of_entry(entry, dtype);
  const bool aligned = reinterpret_cast<std::uintptr_t>(entry.bytes.data()) % size_of(dtype) == 0;
  if (entry.owner != nullptr && aligned) {
    auto* data = const_cast<std::byte*>(entry.bytes.data());  // the storage is marked as not writable
    return Tensor::view_of(Storage::wrap(data, entry.bytes.size(), entry.owner, false), 0, shape, dtype);
  }
  const Tensor copy = Tensor::empty(shape, dtype);
  if (!entry.bytes.empty()) std::memcpy(copy.raw(), entry.bytes.data(), entry.bytes.size());
  return copy;
}

SafetensorsEntry make_entry(std::string name, const Tensor& tensor) {
  if (!tensor.defined() || tensor.device() != Device::cpu()) {
    fail(ErrorCode::invalid_argument, "tensor {} is {}, cannot be written", quote(name),
         tensor.defined() ? "not on the CPU" : "undefined");
  }
  const Tensor dense = tensor.contiguous();
  SafetensorsEntry entry;
  entry.name = std::move(name);
  for (const auto& [spelling, dtype] : kDTypes) {
    if (dtype == dense.dtype()) entry.dtype = spelling;
  }
  entry.shape.assign(dense.shape().begin(), dense.shape().end());
  entry.bytes = {dense.raw(), static_cast<std::size_t>(dense.numel()) * size_of(dense.dtype())};
  entry.owner = dense.storage();
  return entry;
}

}  // namespace wick
