#pragma once

#include <fmt/format.h>

#include <utility>

#include "wick/error.h"

namespace wick {

/// Throws wick::Error with a formatted message: fail(ErrorCode::format, "{}: header is {} bytes", path, size).
template <class... Args>
[[noreturn]] void fail(ErrorCode code, fmt::format_string<Args...> format, Args&&... args) {
  throw Error(code, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace wick
