#include "models/weights.h"

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

#include "core/fail.h"

namespace wick {

WeightReader::WeightReader(const std::filesystem::path& folder, DType dtype, Device device)
    : files_(ShardedSafetensors::open(folder)), dtype_(dtype), device_(device) {}

Tensor WeightReader::take(const std::string& name, const Shape& shape) {
  const SafetensorsEntry& entry = files_.at(name);
  const std::string where = files_.source().string();
  if (!std::ranges::equal(entry.shape, shape, [](auto found, auto needed) { return std::cmp_equal(found, needed); })) {
    fail(ErrorCode::format, "{}: tensor {} has shape [{}], the config says {}", where, name,
         fmt::join(entry.shape, ", "), to_string(shape));
  }
  constexpr std::array<std::string_view, 4> kDTypes = {"F32", "BF16", "F16", "F64"};
  if (std::ranges::find(kDTypes, entry.dtype) == kDTypes.end()) {
    fail(ErrorCode::unsupported, "{}: tensor {} has dtype {}, expected one of {}", where, name, entry.dtype,
         fmt::join(kDTypes, ", "));
  }
  taken_.insert(name);
  // On a device the file's own bytes cross and are converted there.
  return load_tensor(entry).to(device_).to(dtype_);
}

void WeightReader::take_copy(const std::string& name, const std::string& original) {
  const SafetensorsEntry* copy = files_.find(name);
  if (copy == nullptr) return;
  const SafetensorsEntry& entry = files_.at(original);
  if (copy->dtype != entry.dtype || copy->shape != entry.shape || !std::ranges::equal(copy->bytes, entry.bytes)) {
    fail(ErrorCode::format, "{}: tensor {} differs from {}, but the config ties them (\"tie_word_embeddings\")",
         files_.source().string(), name, original);
  }
  taken_.insert(name);
}

void WeightReader::refuse_unexpected(const std::string& name) const {
  fail(ErrorCode::format, "{}: tensor {} is in the file, but not in a model of this config", files_.source().string(),
       name);
}

}  // namespace wick
