#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>

namespace wick {

/// A whole regular file mapped read-only. The bytes stay valid, and keep what they were, for as long as the mapping is
/// held, also when the path is replaced meanwhile (by rename, as every writer here does); a file that is truncated in
/// place under the mapping is not guarded against.
class MappedFile {
 public:
  /// Error(io) when `path` cannot be opened or is no regular file. An empty file gives an empty span.
  static std::shared_ptr<const MappedFile> open(const std::filesystem::path& path);

  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile();

  std::span<const std::byte> bytes() const noexcept { return {data_, size_}; }
  const std::filesystem::path& path() const noexcept { return path_; }

 private:
  MappedFile(std::filesystem::path path, const std::byte* data, std::size_t size);

  std::filesystem::path path_;
  const std::byte* data_;
  std::size_t size_;
};

}  // namespace wick
