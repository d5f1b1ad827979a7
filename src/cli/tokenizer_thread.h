#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "cli/text_input.h"
#include "wick/tokenizer.h"

namespace wick::cli {

/// Texts of the input one after the other, as tokens.
struct TokenizedTexts {
  std::vector<std::vector<TokenId>> texts;
  std::int64_t tokens = 0;
  std::vector<std::string> bad;  ///< what is wrong with lines that were skipped
};

/// Where a part ends: at the text that brings it to one of these, or after some thousand bad lines.
struct PartLimits {
  std::int64_t tokens;
  std::int64_t texts;
};

/// Reads on a thread of its own and tokenizes on all, two parts ahead at most, while the caller computes.
class TokenizerThread {
 public:
  using Tokenize = std::function<std::vector<TokenId>(std::string_view)>;
  /// `skip_bad`: lines that are not what they should be are left out. `tokenize` is called on several other threads.
  TokenizerThread(const TextInputOptions& input, Tokenize tokenize, const PartLimits& limits, bool skip_bad);
  TokenizerThread(const TokenizerThread&) = delete;
  TokenizerThread& operator=(const TokenizerThread&) = delete;
  ~TokenizerThread();

  /// The next part, none of them empty; nothing at the end. Error(format) naming a bad line, once what stands before it
  /// was handed out.
  std::optional<TokenizedTexts> next();
  /// That tokenizing took, all threads together, without reading and waiting; after next() gave nothing.
  double busy_seconds() const noexcept { return busy_seconds_; }

 private:
  struct Line {
    std::int64_t number = 0;
    std::string text;  // as it stands in the input
    std::vector<TokenId> tokens;
    std::exception_ptr error;  // an Error, in place of tokens
  };

  void run();
  /// Sets `error` to that of a bad line that ends the input.
  TokenizedTexts make_part(std::exception_ptr& error);
  /// The next lines of the input in place of those of before, which were all taken.
  void read_lines();
  void tokenize(Line& line) const;

  std::atomic<bool> abandoned_{false};  // nobody will ask for more
  TextInput input_;
  Tokenize tokenize_;
  PartLimits limits_;
  bool skip_bad_;
  bool input_ended_ = false;
  std::vector<Line> lines_;
  std::size_t taken_ = 0;  // of these

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<TokenizedTexts> parts_;
  std::exception_ptr error_;
  bool done_ = false;
  double busy_seconds_ = 0;
  std::thread thread_;  // the last: it uses the rest
};

}  // namespace wick::cli
