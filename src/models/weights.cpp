#include "models/weights.h"

#include "core/fail.h"

namespace wick {

WeightReader::WeightReader(const std::filesystem::path& folder, DType dtype)
    : files_(ShardedSafetensors::open(folder)), dtype_(dtype) {}

Tensor WeightReader::take(const std::string& name, const Shape& shape) {
  const SafetensorsEntry& entry = files_.at(name);
  const Tensor t = load_tensor(entry);
  if (t.shape() != shape) {
    fail(ErrorCode::format, "{}: tensor {} has shape {}, the config says {}", files_.source().string(), name,
         to_string(t.shape()), to_string(shape));
  }
  if (!is_floating(t.dtype())) {
    fail(ErrorCode::unsupported, "{}: tensor {} has dtype {}, which is not supported", files_.source().string(), name, entry.dtype);
  }
  taken_.insert(name);
  return t.to(dtype_);
}

void WeightReader::refuse_unexpected(const std::string& name) const {
  fail(ErrorCode::format, "{}: tensor {} is in the file, but not in a model of this config", files_.source().string(), name);
}

}  // namespace wick
