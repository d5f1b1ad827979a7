#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string_view>

#include "io/file_descriptor.h"

namespace wick {

/// Replaces a file so that a crash at any moment leaves the old one or the new one, whole: bytes go to a temporary file
/// in the same folder, which commit() syncs and renames over `path`. Without commit() the temporary is removed and
/// `path` is as it was. A symbolic link at `path` is replaced, not followed.
/// Error(io) when the system refuses (no space, no permission), or when `path` is a directory, device or pipe.
class AtomicFile {
 public:
  explicit AtomicFile(std::filesystem::path path);
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  ~AtomicFile();

  void write(std::span<const std::byte> bytes);
  void write(std::string_view text) { write(std::as_bytes(std::span(text))); }
  /// Writes over what stands at `offset` already, such as a header that was not known at first.
  void write_over(std::size_t offset, std::string_view text);
  /// Makes what was written the file at `path`, on the disk, before it returns. At most once.
  void commit();

 private:
  std::filesystem::path path_;
  std::filesystem::path temporary_;
  FileDescriptor fd_;
};

/// AtomicFile with all the contents at hand.
void write_file_atomically(const std::filesystem::path& path, std::string_view contents);

/// Replaces a folder of several files as one. New files go to staging() = `DIR.wick-tmp`; commit() syncs them, moves
/// `DIR` to `DIR.wick-old`, `DIR.wick-tmp` to `DIR`, and removes `DIR.wick-old`.
///
/// The recovery rule: `DIR` is complete whenever it exists; if it does not, `DIR.wick-old` is. `DIR.wick-tmp` never
/// counts. Read through find_complete_directory(), which knows the rule; the next AtomicDirectory tidies up after a
/// crash. One writer at a time.
class AtomicDirectory {
 public:
  /// Recovers by the rule above, then creates an empty staging folder, with its parents. Error(io) when that is refused
  /// or `directory` is a file.
  explicit AtomicDirectory(std::filesystem::path directory);
  AtomicDirectory(const AtomicDirectory&) = delete;
  AtomicDirectory& operator=(const AtomicDirectory&) = delete;
  ~AtomicDirectory();

  const std::filesystem::path& staging() const noexcept { return staging_; }
  void commit();

 private:
  std::filesystem::path directory_;
  std::filesystem::path staging_;
  std::filesystem::path old_;
  bool committed_ = false;
};

/// The folder that holds the complete contents of `directory` by AtomicDirectory's recovery rule: `directory` itself,
/// or `directory`.wick-old, or an empty path where neither exists.
std::filesystem::path find_complete_directory(const std::filesystem::path& directory);

}  // namespace wick
