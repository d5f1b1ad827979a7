#include "cli/tokenizer_thread.h"

#include <chrono>
#include <utility>

#include "core/fail.h"

namespace wick::cli {
namespace {

constexpr std::size_t kAhead = 2;

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

}  // namespace

TokenizerThread::TokenizerThread(const TextInputOptions& input, Tokenize tokenize, std::int64_t part_tokens,
                                 bool skip_bad)
    : input_(input, [this] { return abandoned_.load(); }),
      tokenize_(std::move(tokenize)),
      part_tokens_(part_tokens),
      skip_bad_(skip_bad),
      thread_([this] { run(); }) {}

TokenizerThread::~TokenizerThread() {
  {
    const std::lock_guard lock(mutex_);
    abandoned_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

std::optional<std::vector<TokenId>> TokenizerThread::next_text() {
  const std::optional<std::string> text = input_.next();
  if (!text) return std::nullopt;
  const double begin = now();
  try {
    std::vector<TokenId> tokens = tokenize_(*text);
    if (tokens.empty()) fail(ErrorCode::format, "{}: has no tokens", input_.where());
    busy_seconds_ += now() - begin;
    return tokens;
  } catch (const Error& error) {
    if (error.code() != ErrorCode::invalid_argument) throw;
    fail(ErrorCode::format, "{}: {}", input_.where(), error.what());
  }
}

TokenizedTexts TokenizerThread::make_part(std::exception_ptr& error) {
  TokenizedTexts part;
  while (part.tokens < part_tokens_ && std::ssize(part.bad) < part_tokens_) {
    try {
      std::optional<std::vector<TokenId>> tokens = next_text();
      if (!tokens) {
        input_ended_ = true;
        break;
      }
      part.tokens += std::ssize(*tokens);
      part.texts.push_back(std::move(*tokens));
    } catch (const Error& bad) {
      if (bad.code() != ErrorCode::format) throw;
      if (!skip_bad_) {
        error = std::current_exception();
        break;
      }
      part.bad.emplace_back(bad.what());
    }
  }
  return part;
}

void TokenizerThread::run() {
  std::exception_ptr error;
  try {
    while (!input_ended_ && !error) {
      TokenizedTexts part = make_part(error);
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return parts_.size() < kAhead || abandoned_; });
      if (abandoned_) return;
      if (!part.texts.empty() || !part.bad.empty()) parts_.push_back(std::move(part));
      changed_.notify_all();
    }
  } catch (...) {
    error = std::current_exception();
  }
  const std::lock_guard lock(mutex_);
  error_ = error;
  done_ = true;
  changed_.notify_all();
}

std::optional<TokenizedTexts> TokenizerThread::next() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return !parts_.empty() || done_; });
  if (!parts_.empty()) {
    TokenizedTexts part = std::move(parts_.front());
    parts_.pop_front();
    changed_.notify_all();
    return part;
  }
  if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
  return std::nullopt;
}

}  // namespace wick::cli
