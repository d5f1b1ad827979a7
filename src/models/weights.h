#pragma once

#include <filesystem>
#include <set>
#include <string>

#include "wick/safetensors.h"
#include "wick/tensor.h"

namespace wick {

/// Takes the tensors of a model folder by name, each with the shape that the model says, converted to one dtype and
/// brought to one device; and at the end tells what nobody took.
class WeightReader {
 public:
  WeightReader(const std::filesystem::path& folder, DType dtype, Device device);

  bool has(const std::string& name) const { return files_.find(name) != nullptr; }
  /// Error(format) naming file and tensor when it is missing or has another shape, Error(unsupported) for its dtype.
  Tensor take(const std::string& name, const Shape& shape);
  /// A tensor that may be in the files as well, and then holds the same bytes as `original`: Error(format) if it does
  /// not.
  void take_copy(const std::string& name, const std::string& original);
  /// Error(format) with the names that were never taken, but for those that `ignored` accepts.
  template <class Ignored>
  void finish(const Ignored& ignored) const {
    for (const std::string& name : files_.names()) {
      if (!taken_.contains(name) && !ignored(name)) refuse_unexpected(name);
    }
  }

 private:
  [[noreturn]] void refuse_unexpected(const std::string& name) const;

  ShardedSafetensors files_;
  DType dtype_;
  Device device_;
  std::set<std::string> taken_;
};

}  // namespace wick
