#pragma once

#include <string>
#include <utility>

#include "core/fail.h"

namespace wick::lora {

/// Where a configuration came from: a file (its errors are Error(format)) or a caller (Error(invalid_argument)).
struct Origin {
  std::string where;
  ErrorCode code;

  /// Throws "WHERE: ...".
  template <class... Args>
  [[noreturn]] void refuse(fmt::format_string<Args...> format, Args&&... args) const {
    fail(code, "{}: {}", where, fmt::format(format, std::forward<Args>(args)...));
  }
};

inline Origin caller() { return {"[lora]", ErrorCode::invalid_argument}; }

}  // namespace wick::lora
