#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "io/json.h"
#include "io_test_util.h"

namespace wick::test {

namespace fs = std::filesystem;

inline fs::path golden(std::string_view name) { return fs::path(WICK_TEST_DATA) / "golden" / name; }
inline fs::path tales() { return fs::path(WICK_MODELS) / "tales"; }
/// The model of a folder of reference answers.
inline fs::path model_of(std::string_view name) { return name == "tales" ? tales() : golden(name) / "model"; }

struct RunOptions {
  std::string input = {};                                             ///< standard input
  std::vector<std::pair<std::string, std::string>> environment = {};  ///< set on top of the test's own
  std::string output_path = {};                                       ///< standard output goes here instead
  bool closed_output = false;                                         ///< standard output is a pipe that nobody reads
};

struct RunResult {
  int code = -1;  ///< exit code, or 128 + signal
  std::string out;
  std::string err;
};

/// The program with these arguments, under way.
class Program {
 public:
  explicit Program(const std::vector<std::string>& arguments, const RunOptions& options = {}) {
    write_file(folder_ / "in", options.input);
    std::vector<std::string> words = {WICK_PROGRAM};
    words.insert(words.end(), arguments.begin(), arguments.end());
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    const std::string in = folder_ / "in";
    const std::string out = options.output_path.empty() ? std::string(folder_ / "out") : options.output_path;
    const std::string err = folder_ / "err";
    int ends[2] = {-1, -1};
    if (options.closed_output && ::pipe2(ends, O_CLOEXEC) != 0) throw std::runtime_error("pipe2");
    if (options.closed_output) ::close(ends[0]);
    pid_ = ::fork();
    if (pid_ < 0) throw std::runtime_error("fork");
    if (pid_ == 0) {
      ::setenv("CUDA_VISIBLE_DEVICES", "", 1);  // the CPU, unless a test says otherwise
      for (const auto& [name, value] : options.environment) ::setenv(name.c_str(), value.c_str(), 1);
      std::signal(SIGPIPE, SIG_DFL);
      const int target = options.closed_output ? ends[1] : ::open(out.c_str(), O_WRONLY | O_CREAT, 0600);
      ::dup2(::open(in.c_str(), O_RDONLY), STDIN_FILENO);
      ::dup2(target, STDOUT_FILENO);
      ::dup2(::open(err.c_str(), O_WRONLY | O_CREAT, 0600), STDERR_FILENO);
      ::execv(argv[0], argv.data());
      ::_exit(126);
    }
    if (options.closed_output) ::close(ends[1]);
    captured_ = options.output_path.empty() && !options.closed_output;
  }
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;
  ~Program() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }

  void interrupt() const { ::kill(pid_, SIGINT); }
  bool running() {
    if (pid_ > 0 && ::waitpid(pid_, &status_, WNOHANG) == pid_) pid_ = 0;
    return pid_ > 0;
  }
  RunResult wait() {
    if (pid_ > 0) ::waitpid(pid_, &status_, 0);
    pid_ = 0;
    return {.code = WIFEXITED(status_) ? WEXITSTATUS(status_) : 128 + WTERMSIG(status_),
            .out = captured_ ? read_file(folder_ / "out") : std::string(),
            .err = read_file(folder_ / "err")};
  }

 private:
  TempDir folder_;
  pid_t pid_ = 0;
  int status_ = 0;
  bool captured_ = true;
};

inline RunResult wick(const std::vector<std::string>& arguments, const RunOptions& options = {}) {
  return Program(arguments, options).wait();
}

/// What the program prints when it must succeed.
inline std::string expect_success(const std::vector<std::string>& arguments, const RunOptions& options = {}) {
  const RunResult result = wick(arguments, options);
  EXPECT_EQ(result.code, 0) << ::testing::PrintToString(arguments) << "\n" << result.err;
  return result.out;
}

/// The one JSON object that the program prints when it must succeed.
inline Json expect_json(const std::vector<std::string>& arguments, const RunOptions& options = {}) {
  const std::string out = expect_success(arguments, options);
  if (out.empty()) return Json::object();
  EXPECT_EQ(std::count(out.begin(), out.end(), '\n'), 1) << out;
  return parse_json(out, "stdout");
}

/// The program must end with this code, nothing on standard output, and one line on standard error that begins "error:"
/// and holds each of `parts`.
inline void expect_failure(int code, const std::vector<std::string>& parts, const std::vector<std::string>& arguments,
                           const RunOptions& options = {}) {
  const RunResult result = wick(arguments, options);
  SCOPED_TRACE(::testing::PrintToString(arguments));
  EXPECT_EQ(result.code, code) << result.err;
  EXPECT_EQ(result.out, "");
  EXPECT_TRUE(result.err.starts_with("error: ")) << result.err;
  EXPECT_TRUE(result.err.ends_with('\n')) << result.err;
  EXPECT_EQ(std::count_if(result.err.begin(), result.err.end(), [](char c) { return c >= 0 && c < ' '; }), 1)
      << result.err;
  EXPECT_LT(result.err.size(), 1200U);
  for (const std::string& part : parts)
    EXPECT_NE(result.err.find(part), std::string::npos) << part << "\n" << result.err;
}

inline Json read_json_lines(const fs::path& path) {
  Json rows = Json::array();
  const std::string text = read_file(path);
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    rows.push_back(parse_json(std::string_view(text).substr(begin, end - begin), path.string()));
    begin = end + 1;
  }
  return rows;
}

}  // namespace wick::test
