#include "io/atomic_file.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <system_error>
#include <utility>

#include "core/fail.h"

namespace wick {
namespace {

namespace fs = std::filesystem;

constexpr const char* kStaging = ".wick-tmp";
constexpr const char* kOld = ".wick-old";

[[noreturn]] void fail_errno(const fs::path& path, const char* action) {
  const int error = errno;
  fail(ErrorCode::io, "{}: cannot {}: {}", path.string(), action, std::strerror(error));
}

void check(const std::error_code& error, const fs::path& path, const char* action) {
  if (error) fail(ErrorCode::io, "{}: cannot {}: {}", path.string(), action, error.message());
}

fs::path parent_of(const fs::path& path) { return path.has_parent_path() ? path.parent_path() : fs::path("."); }

void sync(int fd, const fs::path& path) {
  // EINVAL: a file system that has no sync for this kind of file, where there is nothing to wait for.
  if (::fsync(fd) != 0 && errno != EINVAL) fail_errno(path, "sync");
}

void sync_path(const fs::path& path) {
  const FileDescriptor fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) fail_errno(path, "open");
  sync(fd.get(), path);
}

void rename_path(const fs::path& from, const fs::path& to) {
  if (::rename(from.c_str(), to.c_str()) != 0) fail_errno(to, "replace");
}

bool is_there(const fs::path& path) {
  std::error_code error;
  const fs::file_status status = fs::symlink_status(path, error);
  if (status.type() == fs::file_type::none) check(error, path, "stat");
  return fs::exists(status);
}

void remove_tree(const fs::path& path) {
  std::error_code error;
  fs::remove_all(path, error);
  check(error, path, "remove");
}

}  // namespace

AtomicFile::AtomicFile(fs::path path) : path_(std::move(path)) {
  struct stat status {};
  const bool replaces = ::stat(path_.c_str(), &status) == 0;
  if (replaces && !S_ISREG(status.st_mode)) {
    fail(ErrorCode::io, "{}: is {}, cannot be replaced by a file", path_.string(),
         S_ISDIR(status.st_mode) ? "a directory" : "a device or pipe");
  }
  static std::atomic<unsigned> counter{0};
  do {
    // The name does not contain the file's own, which may already be as long as the system allows.
    temporary_ = parent_of(path_) / fmt::format(".wick-{}-{}.tmp", ::getpid(), counter.fetch_add(1));
    fd_ = FileDescriptor(::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
  } while (!fd_ && errno == EEXIST);
  if (!fd_) {
    temporary_.clear();
    fail_errno(path_, "create");
  }
  // A replaced file keeps its permissions; where that is refused, the new file has the default ones.
  if (replaces) static_cast<void>(!::fchmod(fd_.get(), status.st_mode & 07777));
}

AtomicFile::~AtomicFile() {
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void AtomicFile::write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ::ssize_t count = ::write(fd_.get(), bytes.data(), std::min(bytes.size(), std::size_t{1} << 30));
    if (count < 0) {
      if (errno == EINTR) continue;
      fail_errno(path_, "write");
    }
    bytes = bytes.subspan(static_cast<std::size_t>(count));
  }
}

void AtomicFile::write_over(std::size_t offset, std::string_view text) {
  while (!text.empty()) {
    const ::ssize_t count = ::pwrite(fd_.get(), text.data(), text.size(), static_cast<::off_t>(offset));
    if (count < 0) {
      if (errno == EINTR) continue;
      fail_errno(path_, "write");
    }
    text.remove_prefix(static_cast<std::size_t>(count));
    offset += static_cast<std::size_t>(count);
  }
}

void AtomicFile::commit() {
  if (temporary_.empty()) fail(ErrorCode::invalid_argument, "{}: committed twice", path_.string());
  sync(fd_.get(), path_);
  // Network file systems may report a full disk only here.
  if (::close(fd_.release()) != 0) fail_errno(path_, "close");
  rename_path(temporary_, path_);
  temporary_.clear();
  sync_path(parent_of(path_));
}

void write_file_atomically(const fs::path& path, std::string_view contents) {
  AtomicFile file(path);
  file.write(contents);
  file.commit();
}

AtomicDirectory::AtomicDirectory(fs::path directory) : directory_(std::move(directory)) {
  if (!directory_.has_filename()) directory_ = directory_.parent_path();  // "dir/" is "dir"
  staging_ = directory_;
  staging_ += kStaging;
  old_ = directory_;
  old_ += kOld;
  if (is_there(directory_) && !fs::is_directory(directory_)) {
    fail(ErrorCode::io, "{}: is a file, cannot be replaced by a directory", directory_.string());
  }
  if (is_there(old_)) {
    if (is_there(directory_)) {
      remove_tree(old_);
    } else {
      rename_path(old_, directory_);
    }
  }
  remove_tree(staging_);
  std::error_code error;
  fs::create_directories(staging_, error);
  check(error, staging_, "create");
}

AtomicDirectory::~AtomicDirectory() {
  if (committed_) return;
  std::error_code ignored;
  fs::remove_all(staging_, ignored);
}

void AtomicDirectory::commit() {
  if (committed_) fail(ErrorCode::invalid_argument, "{}: committed twice", directory_.string());
  std::error_code error;
  for (auto it = fs::recursive_directory_iterator(staging_, error); it != fs::recursive_directory_iterator();
       it.increment(error)) {
    check(error, staging_, "list");
    if (it->is_regular_file(error) || it->is_directory(error)) sync_path(it->path());
  }
  check(error, staging_, "list");
  sync_path(staging_);

  const fs::path parent = parent_of(directory_);
  const bool replaces = is_there(directory_);
  if (replaces) rename_path(directory_, old_);
  if (::rename(staging_.c_str(), directory_.c_str()) != 0) {
    const int reason = errno;
    if (replaces) static_cast<void>(!::rename(old_.c_str(), directory_.c_str()));
    errno = reason;
    fail_errno(directory_, "replace");
  }
  committed_ = true;
  // The old folder goes only once the new one is sure to be found after a power cut.
  sync_path(parent);
  if (replaces) remove_tree(old_);
}

fs::path find_complete_directory(const fs::path& directory) {
  const fs::path named = directory.has_filename() ? directory : directory.parent_path();
  if (is_there(named)) return named;
  fs::path old = named;
  old += kOld;
  return is_there(old) ? old : fs::path();
}

}  // namespace wick
