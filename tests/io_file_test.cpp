#include <sys/resource.h>
#include <sys/stat.h>

#include <csignal>
#include <filesystem>
#include <string>

#include "io/atomic_file.h"
#include "io/mapped_file.h"
#include "io_test_util.h"

namespace wick {
namespace {

namespace fs = std::filesystem;
using test::expect_error;
using test::list;
using test::read_file;
using test::TempDir;
using test::text;
using test::write_file;

/// Makes every write beyond `bytes` of a file fail, as on a full disk.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) : handler_(std::signal(SIGXFSZ, SIG_IGN)) {
    getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit limit{bytes, before_.rlim_max};
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  FileSizeLimit(const FileSizeLimit&) = delete;
  FileSizeLimit& operator=(const FileSizeLimit&) = delete;
  ~FileSizeLimit() {
    setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, handler_);
  }

 private:
  rlimit before_{};
  void (*handler_)(int);
};

TEST(MappedFile, HoldsTheBytesEvenWhenTheFileIsReplaced) {
  const TempDir dir;
  write_file(dir / "f", "hello");
  const auto file = MappedFile::open(dir / "f");
  write_file_atomically(dir / "f", "other");
  EXPECT_EQ(text(file->bytes()), "hello");
  EXPECT_EQ(file->path(), dir / "f");
}

TEST(MappedFile, EmptyFileIsAnEmptySpan) {
  const TempDir dir;
  write_file(dir / "f", "");
  EXPECT_TRUE(MappedFile::open(dir / "f")->bytes().empty());
}

TEST(MappedFile, RefusesWhatIsNoFile) {
  const TempDir dir;
  expect_error(ErrorCode::io, "none: cannot open: No such file", [&] { MappedFile::open(dir / "none"); });
  expect_error(ErrorCode::io, "is a directory, expected a regular file", [&] { MappedFile::open(dir.path()); });
  expect_error(ErrorCode::io, "is a device or pipe", [&] { MappedFile::open("/dev/null"); });
  ASSERT_EQ(::mkfifo((dir / "pipe").c_str(), 0600), 0);
  expect_error(ErrorCode::io, "is a device or pipe", [&] { MappedFile::open(dir / "pipe"); });
}

TEST(AtomicFile, WritesAndReplaces) {
  const TempDir dir;
  write_file_atomically(dir / "f", "one");
  EXPECT_EQ(read_file(dir / "f"), "one");
  AtomicFile file(dir / "f");
  file.write("tw");
  file.write("o");
  EXPECT_EQ(read_file(dir / "f"), "one");
  file.commit();
  EXPECT_EQ(read_file(dir / "f"), "two");
  EXPECT_EQ(list(dir.path()), "f");
  expect_error(ErrorCode::invalid_argument, "committed twice", [&] { file.commit(); });
}

TEST(AtomicFile, WritesOverWhatStandsThere) {
  const TempDir dir;
  AtomicFile file(dir / "f");
  file.write("head????");
  file.write("tail");
  file.write_over(4, "1234");
  file.write("+");
  file.commit();
  EXPECT_EQ(read_file(dir / "f"), "head1234tail+");
}

TEST(AtomicFile, LeavesTheOldFileWithoutACommit) {
  const TempDir dir;
  write_file(dir / "f", "old");
  {
    AtomicFile file(dir / "f");
    file.write("new");
  }
  EXPECT_EQ(read_file(dir / "f"), "old");
  EXPECT_EQ(list(dir.path()), "f");
}

TEST(AtomicFile, KeepsPermissionsAndHonoursTheMask) {
  const TempDir dir;
  const mode_t mask = ::umask(027);
  write_file_atomically(dir / "new", "x");
  ::umask(mask);
  write_file(dir / "old", "x");
  ASSERT_EQ(::chmod((dir / "old").c_str(), 0604), 0);
  write_file_atomically(dir / "old", "y");
  struct stat status {};
  ASSERT_EQ(::stat((dir / "new").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777U, 0640U);
  ASSERT_EQ(::stat((dir / "old").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777U, 0604U);
}

TEST(AtomicFile, ReplacesALinkAndNotWhatItPointsTo) {
  const TempDir dir;
  write_file(dir / "target", "kept");
  fs::create_symlink("target", dir / "link");
  write_file_atomically(dir / "link", "new");
  EXPECT_EQ(read_file(dir / "target"), "kept");
  EXPECT_EQ(read_file(dir / "link"), "new");
}

TEST(AtomicFile, TakesALongNameAndABareOne) {
  const TempDir dir;
  const std::string name(255, 'n');
  write_file_atomically(dir / name, "x");
  EXPECT_EQ(list(dir.path()), name);
  const fs::path before = fs::current_path();
  fs::current_path(dir.path());
  write_file_atomically("bare", "y");
  fs::current_path(before);
  EXPECT_EQ(read_file(dir / "bare"), "y");
}

TEST(AtomicFile, FullDiskLeavesTheOldFile) {
  const TempDir dir;
  write_file(dir / "f", "old");
  {
    const FileSizeLimit limit(1000);
    expect_error(ErrorCode::io,
                 "f: cannot write: ", [&] { write_file_atomically(dir / "f", std::string(100'000, 'x')); });
  }
  EXPECT_EQ(read_file(dir / "f"), "old");
  EXPECT_EQ(list(dir.path()), "f");
}

TEST(AtomicFile, RefusesWhatCannotBeReplaced) {
  const TempDir dir;
  write_file(dir / "file", "");
  const auto refuse = [](std::string_view part, const fs::path& path) {
    expect_error(ErrorCode::io, part, [&] { AtomicFile file(path); });
  };
  refuse("is a directory, cannot be replaced", dir.path());
  refuse("is a device or pipe, cannot be replaced", "/dev/null");
  refuse("cannot create: No such file", dir / "no" / "f");
  refuse("cannot create: Not a directory", dir / "file" / "f");
  if (::geteuid() != 0) {
    fs::permissions(dir.path(), fs::perms::owner_read | fs::perms::owner_exec);
    refuse("cannot create: Permission denied", dir / "f");
    fs::permissions(dir.path(), fs::perms::owner_all);
  }
}

class AtomicDirectoryTest : public testing::Test {
 protected:
  // Replaces `ckpt` by a folder of one file, and one in a sub-folder.
  void replace(std::string_view contents) {
    AtomicDirectory directory(at_);
    write_file(directory.staging() / "state", contents);
    fs::create_directory(directory.staging() / "sub");
    write_file(directory.staging() / "sub" / "more", contents);
    directory.commit();
  }

  std::string complete() { return read_file(find_complete_directory(at_) / "state"); }

  TempDir dir_;
  fs::path at_ = dir_ / "ckpt";
};

TEST_F(AtomicDirectoryTest, CreatesAndReplaces) {
  EXPECT_TRUE(find_complete_directory(at_).empty());
  replace("one");
  EXPECT_EQ(complete(), "one");
  replace("two");
  EXPECT_EQ(complete(), "two");
  EXPECT_EQ(read_file(at_ / "sub" / "more"), "two");
  EXPECT_EQ(list(dir_.path()), "ckpt");
}

TEST_F(AtomicDirectoryTest, CreatesParentsAndTakesATrailingSlash) {
  at_ = dir_ / "a/b/ckpt/";
  replace("one");
  EXPECT_EQ(list(dir_ / "a/b"), "ckpt");
  EXPECT_EQ(find_complete_directory(at_), dir_ / "a/b/ckpt");
}

TEST_F(AtomicDirectoryTest, LeavesTheOldFolderWithoutACommit) {
  replace("one");
  {
    const AtomicDirectory directory(at_);
    write_file(directory.staging() / "state", "two");
  }
  EXPECT_EQ(complete(), "one");
  EXPECT_EQ(list(dir_.path()), "ckpt");
}

// Each state that a crash can leave behind: what is found, and that the next writer goes on from there.
TEST_F(AtomicDirectoryTest, CrashWhileStaging) {
  replace("one");
  fs::create_directory(dir_ / "ckpt.wick-tmp");
  write_file(dir_ / "ckpt.wick-tmp" / "leftover", "half");
  EXPECT_EQ(complete(), "one");
  replace("two");
  EXPECT_EQ(complete(), "two");
  EXPECT_FALSE(fs::exists(at_ / "leftover"));
}

TEST_F(AtomicDirectoryTest, CrashBetweenTheTwoRenames) {
  replace("one");
  fs::rename(at_, dir_ / "ckpt.wick-old");
  fs::create_directory(dir_ / "ckpt.wick-tmp");
  EXPECT_EQ(complete(), "one");
  {
    const AtomicDirectory directory(at_);  // does not commit
  }
  EXPECT_EQ(complete(), "one");
  EXPECT_EQ(list(dir_.path()), "ckpt");
}

TEST_F(AtomicDirectoryTest, CrashBeforeTheOldFolderIsRemoved) {
  replace("two");
  fs::create_directory(dir_ / "ckpt.wick-old");
  write_file(dir_ / "ckpt.wick-old" / "state", "one");
  EXPECT_EQ(complete(), "two");
  replace("three");
  EXPECT_EQ(complete(), "three");
  EXPECT_EQ(list(dir_.path()), "ckpt");
}

TEST_F(AtomicDirectoryTest, RefusesFiles) {
  write_file(dir_ / "file", "kept");
  expect_error(ErrorCode::io, "Not a directory", [&] { AtomicDirectory directory(dir_ / "file" / "ckpt"); });
  expect_error(ErrorCode::io, "is a file, cannot", [&] { AtomicDirectory directory(dir_ / "file"); });
  EXPECT_EQ(read_file(dir_ / "file"), "kept");
}

}  // namespace
}  // namespace wick
