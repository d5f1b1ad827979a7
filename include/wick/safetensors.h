#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "wick/tensor.h"

namespace wick {

/// One tensor of a safetensors file (https://huggingface.co/docs/safetensors): where its bytes are and what they mean.
struct SafetensorsEntry {
  std::string name;
  std::string dtype;                 ///< as the file spells it: "F32", "BF16", "F8_E4M3", ...; see safetensors_bits()
  std::vector<std::int64_t> shape;   ///< empty for a scalar
  std::span<const std::byte> bytes;  ///< the elements, row-major, little-endian; not necessarily aligned
  std::shared_ptr<const void> owner = nullptr;  ///< keeps `bytes` valid; may be empty for an entry to be written
};

/// The entry as a tensor on the CPU: a read-only view of the file that keeps it mapped, or, where the bytes have no
/// owner or are not aligned to their type, a copy. F32, BF16, F16, F64, I32 and I64. Error(unsupported) naming the
/// tensor for another dtype, or a shape that Tensor does not take.
Tensor load_tensor(const SafetensorsEntry& entry);

/// The entry that writes a tensor under this name; it shares the tensor's memory if that is contiguous, else copies.
/// Error(invalid_argument) for a tensor that is undefined or not on the CPU.
SafetensorsEntry make_entry(std::string name, const Tensor& tensor);

/// Bits of one element of the format's `dtype`, 4 to 64; 0 for a dtype that the format does not have.
int safetensors_bits(std::string_view dtype) noexcept;

/// A safetensors file, mapped into memory and checked whole before open() returns: entries point into the mapping and
/// share it, so they may outlive this object.
class SafetensorsFile {
 public:
  /// Error(io) when the file cannot be read. Error(format) naming file and tensor unless the header is one JSON object
  /// of at most 100 MB with no key given twice, every tensor's bytes are what its shape and dtype need, and the tensors
  /// cover the data without overlaps or holes. Error(unsupported) for an unknown dtype.
  static SafetensorsFile open(const std::filesystem::path& path);

  SafetensorsFile(SafetensorsFile&&) = default;
  SafetensorsFile& operator=(SafetensorsFile&&) = default;

  const std::vector<SafetensorsEntry>& entries() const noexcept { return entries_; }  ///< in the order of their bytes
  const SafetensorsEntry* find(std::string_view name) const noexcept;                 ///< null when there is none
  const std::map<std::string, std::string>& metadata() const noexcept { return metadata_; }
  const std::filesystem::path& path() const noexcept { return path_; }

 private:
  SafetensorsFile() = default;

  std::filesystem::path path_;
  std::vector<SafetensorsEntry> entries_;
  std::map<std::string, std::string> metadata_;
  std::unordered_map<std::string_view, std::size_t> by_name_;  // its keys are the entries' names
};

/// Writes a safetensors file, atomically: a crash leaves the old file or the new one. Byte for byte what the Python
/// package writes: tensors by descending alignment of dtype, then by name; the header padded to 8 bytes. (Of several
/// metadata keys that package picks the order at random; here they are sorted.)
/// Error(invalid_argument) for an entry that open() would refuse; Error(io) when the file cannot be written.
void write_safetensors(const std::filesystem::path& path, std::span<const SafetensorsEntry> entries,
                       const std::map<std::string, std::string>& metadata = {});

/// The weights of a model folder: `model.safetensors`, or the shards that `model.safetensors.index.json` names.
class ShardedSafetensors {
 public:
  /// Error(io) when the folder has neither. Error(format) naming file and tensor when the index is malformed, names a
  /// shard that is missing or outside the folder, or a tensor that its shard does not hold or that two shards hold.
  static ShardedSafetensors open(const std::filesystem::path& folder);

  ShardedSafetensors(ShardedSafetensors&&) = default;
  ShardedSafetensors& operator=(ShardedSafetensors&&) = default;

  const std::vector<std::string>& names() const noexcept { return names_; }      ///< sorted
  const SafetensorsEntry* find(std::string_view name) const noexcept;            ///< null when there is none
  const SafetensorsEntry& at(std::string_view name) const;                       ///< Error(format) when there is none
  const std::vector<SafetensorsFile>& files() const noexcept { return files_; }  ///< sorted by file name
  const std::filesystem::path& source() const noexcept { return source_; }       ///< the file or index it was read from

 private:
  ShardedSafetensors() = default;

  std::filesystem::path source_;
  std::vector<SafetensorsFile> files_;
  std::vector<std::string> names_;
  std::unordered_map<std::string_view, const SafetensorsEntry*> by_name_;
};

}  // namespace wick
