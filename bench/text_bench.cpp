// Times what a person waits for before the first token: the start of the program, loading a large tokenizer.json, and
// tokenizing. Prints medians with the fastest and slowest repetition. What each figure covers is in bench/README.md.
#include <fcntl.h>
#include <fmt/format.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <unordered_set>
#include <utility>
#include <vector>

#include "io/json_string.h"
#include "io/jsonl.h"
#include "text/byte_level.h"
#include "text/unicode.h"
#include "wick/tokenizer.h"

namespace wick {
namespace {

namespace fs = std::filesystem;

class TempDir {
 public:
  TempDir() {
    std::string name = (fs::temp_directory_path() / "wick-bench-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("cannot make " + name);
    path_ = name;
  }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  ~TempDir() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  fs::path operator/(std::string_view name) const { return path_ / name; }

 private:
  fs::path path_;
};

struct Times {
  double median, fastest, slowest;  // seconds
};

// One run warms up, then `repetitions` are timed.
template <class F>
Times measure(int repetitions, F&& run) {
  run();
  std::vector<double> seconds;
  for (int i = 0; i < repetitions; ++i) {
    const auto start = std::chrono::steady_clock::now();
    run();
    seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  std::ranges::sort(seconds);
  return {seconds[seconds.size() / 2], seconds.front(), seconds.back()};
}

void report(std::string_view name, const Times& times, std::string_view more = {}) {
  fmt::print("{:<42} {:>9.2f} ms  ({:.2f} to {:.2f})  {}\n", name, times.median * 1e3, times.fastest * 1e3,
             times.slowest * 1e3, more);
}

std::string spelled(std::string_view bytes) {
  std::string out;
  append_json_string(out, text::to_byte_level(bytes), JsonEscapes::needed);
  return out;
}

// A byte-level BPE of the size and the spelling of Llama 3's tokenizer.json: 128,000 tokens, 280,000 merges (a token
// can be merged from several pairs), each on lines of its own. The tokens are all the short words of ten letters, with
// and without a space before them.
void write_large_tokenizer(const fs::path& path) {
  constexpr std::size_t kTokens = 128000;
  constexpr std::size_t kMerges = 305000;
  std::vector<std::string> tokens;
  for (int byte = 0; byte < 256; ++byte) tokens.emplace_back(1, static_cast<char>(byte));
  std::unordered_set<std::string> known(tokens.begin(), tokens.end());
  std::vector<std::string> words = {""};  // each of them is followed by its ten continuations
  for (std::size_t i = 0; tokens.size() < kTokens; ++i) {
    const std::string word = words[i];
    for (char c = 'a'; c <= 'j'; ++c) words.push_back(word + c);
    for (const std::string& token : {word, " " + word}) {
      if (!token.empty() && tokens.size() < kTokens && known.insert(token).second) tokens.push_back(token);
    }
  }
  std::vector<std::pair<std::string, std::string>> merges;
  for (const std::string& token : tokens) {
    for (std::size_t at = 1; at < token.size() && merges.size() < kMerges; ++at) {
      const std::string left = token.substr(0, at);
      const std::string right = token.substr(at);
      if (known.contains(left) && known.contains(right)) merges.emplace_back(left, right);
    }
  }
  std::ofstream out(path, std::ios::binary);
  out << R"({
  "version": "1.0",
  "truncation": null,
  "padding": null,
  "added_tokens": [],
  "normalizer": null,
  "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
  "post_processor": null,
  "decoder": {"type": "ByteLevel"},
  "model": {
    "type": "BPE",
    "vocab": {)";
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    out << (i == 0 ? "\n      " : ",\n      ") << spelled(tokens[i]) << ": " << i;
  }
  out << "\n    },\n    \"merges\": [";
  const char* separator = "\n";
  for (const auto& [left, right] : merges) {
    out << std::exchange(separator, ",\n") << "      [\n        " << spelled(left) << ",\n        " << spelled(right)
        << "\n      ]";
  }
  out << "\n    ]\n  }\n}\n";
  if (!out.flush()) throw std::runtime_error("cannot write " + path.string());
}

void bench_loading(const fs::path& path, int repetitions) {
  std::size_t tokens = 0;
  const Times times = measure(repetitions, [&] { tokens = Tokenizer::from_file(path).vocab_size(); });
  const double megabytes = static_cast<double>(fs::file_size(path)) / 1e6;
  report("load tokenizer.json", times,
         fmt::format("{:.1f} MB, {} tokens, {:.0f} MB/s", megabytes, tokens, megabytes / times.median));
}

std::string prose() {
  std::string text;
  for (const char* book : {"alice", "sherlock"}) {
    JsonlReader rows(fs::path(WICK_SOURCE) / "data" / book / "train.jsonl");
    while (const auto row = rows.next()) text += row->at("text").get<std::string>() + "\n\n";
  }
  return text;
}

// Some of the `count` characters from `first` on, `size` bytes of them, in an order that is the same everywhere
// (Knuth's MMIX generator).
std::string characters(std::size_t size, char32_t first, std::uint64_t count) {
  std::string text;
  std::uint64_t state = 1;
  while (text.size() < size) {
    state = state * 6364136223846793005U + 1442695040888963407U;
    text::append_utf8(text, first + static_cast<std::uint32_t>((state >> 33) % count));
  }
  return text;
}

void bench_encoding(const Tokenizer& tokenizer, std::string_view name, const std::string& text, int repetitions) {
  const auto speed = [&](const Times& times, std::size_t tokens) {
    return fmt::format("{:.1f} MB/s, {} tokens", static_cast<double>(text.size()) / 1e6 / times.median, tokens);
  };
  std::size_t tokens = 0;
  const Times ids = measure(repetitions, [&] { tokens = tokenizer.encode_ids(text).size(); });
  report(fmt::format("{}: ids", name), ids, speed(ids, tokens));
  const Times offsets = measure(repetitions, [&] { tokens = tokenizer.encode(text).offsets.size(); });
  report(fmt::format("{}: ids and offsets", name), offsets, speed(offsets, tokens));
}

void bench_tokenizers(int repetitions) {
  constexpr std::size_t kSize = std::size_t{1} << 20;
  const TempDir folder;
  const fs::path large = folder / "tokenizer.json";
  write_large_tokenizer(large);
  bench_loading(large, repetitions);
  const Tokenizer tales = Tokenizer::from_file(fs::path(WICK_SOURCE) / "models/tales/tokenizer.json");
  bench_encoding(tales, "prose", prose(), repetitions);
  const Tokenizer bert =
      Tokenizer::from_file(fs::path(WICK_SOURCE) / "tests/data/tokenizer/bert.json", {.truncate = false});
  bench_encoding(bert, "prose, WordPiece", prose(), repetitions);
  bench_encoding(bert, "1 MiB of 'a', WordPiece", std::string(kSize, 'a'), repetitions);
  bench_encoding(bert, "1 MiB of CJK, WordPiece", characters(kSize, U'\u4e00', 20000), repetitions);
  bench_encoding(bert, "1 MiB of marks, WordPiece", characters(kSize, U'\u0300', 0x60), repetitions);
  bench_encoding(tales, "1 MiB of 'a'", std::string(kSize, 'a'), repetitions);
  bench_encoding(Tokenizer::from_file(large), "1 MiB of 'a' that merge", std::string(kSize, 'a'), repetitions);
  bench_encoding(tales, "1 MiB of spaces", std::string(kSize, ' '), repetitions);
  bench_encoding(tales, "1 MiB of CJK", characters(kSize, U'\u4e00', 20000), repetitions);
  const Tokenizer unigram = Tokenizer::from_file(fs::path(WICK_SOURCE) / "tests/data/tokenizer/unigram_spm.json");
  bench_encoding(unigram, "Unigram: prose", prose(), repetitions);
  bench_encoding(unigram, "Unigram: 1 MiB of 'a'", std::string(kSize, 'a'), repetitions);
  bench_encoding(unigram, "Unigram: 1 MiB of spaces", std::string(kSize, ' '), repetitions);
  bench_encoding(unigram, "Unigram: 1 MiB of CJK", characters(kSize, U'\u4e00', 20000), repetitions);
  bench_encoding(unigram, "Unigram: 1 MiB of emoji", characters(kSize, U'\U0001f600', 80), repetitions);
  bench_encoding(tales, "1 MiB of emoji", characters(kSize, U'\U0001f600', 80), repetitions);
}

void bench_start(int repetitions) {
  posix_spawn_file_actions_t quiet;
  posix_spawn_file_actions_init(&quiet);
  posix_spawn_file_actions_addopen(&quiet, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
  std::string words[] = {WICK_PROGRAM, "--version"};
  char* const arguments[] = {words[0].data(), words[1].data(), nullptr};
  const Times times = measure(repetitions, [&] {
    pid_t child = 0;
    int status = 0;
    if (::posix_spawn(&child, arguments[0], &quiet, nullptr, arguments, environ) != 0 ||
        ::waitpid(child, &status, 0) != child || status != 0) {
      throw std::runtime_error(fmt::format("{} --version failed", words[0]));
    }
  });
  posix_spawn_file_actions_destroy(&quiet);
  report("start and end wick --version", times);
}

}  // namespace
}  // namespace wick

int main(int argc, char** argv) {
  const int repetitions = argc == 2 ? std::atoi(argv[1]) : 15;
  if (argc > 2 || repetitions < 1) {
    fmt::print(stderr, "usage: {} [REPETITIONS]\n", argv[0]);
    return 2;
  }
  try {
    fmt::print("median of {} (fastest to slowest); the start: of {}\n", repetitions, repetitions * 10);
    wick::bench_start(repetitions * 10);
    wick::bench_tokenizers(repetitions);
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}: {}\n", argv[0], error.what());
    return 1;
  }
}
