#pragma once

#include <stdexcept>
#include <string>
#include <string_view>

namespace wick {

/// What went wrong, coarse enough to act on. The program maps each code to an exit code (docs/architecture.md, Errors).
enum class ErrorCode {
  invalid_argument,  ///< a call or an option is wrong; nothing was read or written
  format,            ///< a file does not hold what its format promises
  io,                ///< the operating system refused to read or write
  unsupported,       ///< understood, and refused by name: never approximated
  out_of_memory,     ///< an allocation failed; the message has the numbers
  device,            ///< a device or its driver failed
  diverged,          ///< a loss or gradient stopped being finite
  interrupted,       ///< the caller asked to stop; state was saved where that was promised
};

/// The field's name of a code, e.g. "format".
std::string_view to_string(ErrorCode code) noexcept;

/// The only exception type that the library throws on purpose. The message names the file, tensor or option, what was
/// found and what was expected; it is one line.
class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message) : std::runtime_error(message), code_(code) {}

  ErrorCode code() const noexcept { return code_; }

 private:
  ErrorCode code_;
};

}  // namespace wick
