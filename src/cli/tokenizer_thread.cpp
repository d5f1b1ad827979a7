#include "cli/tokenizer_thread.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "core/fail.h"
#include "core/parallel.h"

namespace wick::cli {
namespace {

constexpr std::size_t kAhead = 2;
constexpr std::size_t kLines = 8192;     // that are in memory at once, and bad ones of a part
constexpr std::size_t kBytes = 8 << 20;  // of these, besides a last one that may be longer
constexpr std::int64_t kPiece = 32;      // lines that a thread takes at a time

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

}  // namespace

TokenizerThread::TokenizerThread(const TextInputOptions& input, Tokenize tokenize, const PartLimits& limits,
                                 bool skip_bad)
    : input_(input, [this] { return abandoned_.load(); }),
      tokenize_(std::move(tokenize)),
      limits_(limits),
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

void TokenizerThread::tokenize(Line& line) const {
  try {
    try {
      line.tokens = tokenize_(input_.text_of(line.text, line.number));
    } catch (const Error& error) {
      if (error.code() != ErrorCode::invalid_argument) throw;
      fail(ErrorCode::format, "{}: {}", input_.where(line.number), error.what());
    }
    if (line.tokens.empty()) fail(ErrorCode::format, "{}: has no tokens", input_.where(line.number));
  } catch (const Error&) {
    line.error = std::current_exception();
  }
}

void TokenizerThread::read_lines() {
  lines_.clear();
  taken_ = 0;
  for (std::size_t bytes = 0; lines_.size() < kLines && bytes < kBytes;) {
    Line& line = lines_.emplace_back();
    try {
      const std::optional<std::string_view> text = input_.next();
      if (!text) {
        lines_.pop_back();
        input_ended_ = true;
        break;
      }
      line.number = input_.line();
      line.text = *text;
      bytes += text->size();
    } catch (const Error& error) {
      if (error.code() != ErrorCode::format) throw;
      line.error = std::current_exception();
    }
  }
  const double begin = now();
  const std::int64_t count = std::ssize(lines_);
  parallel_each((count + kPiece - 1) / kPiece, [&](std::int64_t piece) {
    for (std::int64_t i = piece * kPiece; i < std::min(count, (piece + 1) * kPiece); ++i) {
      Line& line = lines_[static_cast<std::size_t>(i)];
      if (!line.error) tokenize(line);
    }
  });
  busy_seconds_ += now() - begin;
}

TokenizedTexts TokenizerThread::make_part(std::exception_ptr& error) {
  TokenizedTexts part;
  while (part.tokens < limits_.tokens && std::ssize(part.texts) < limits_.texts && part.bad.size() < kLines) {
    if (taken_ == lines_.size()) {
      if (input_ended_) break;
      read_lines();
      continue;
    }
    Line& line = lines_[taken_++];
    if (!line.error) {
      part.tokens += std::ssize(line.tokens);
      part.texts.push_back(std::move(line.tokens));
      continue;
    }
    try {
      std::rethrow_exception(line.error);
    } catch (const Error& bad) {
      if (bad.code() != ErrorCode::format) throw;
      if (!skip_bad_) {
        error = line.error;
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
    while ((!input_ended_ || taken_ < lines_.size()) && !error) {
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
