#pragma once

#include <cstdint>

namespace wick {

/// One piece of a device's work, as a profile names it: a kernel, a product of a library, a copy.
struct Work {
  const char* name;  ///< a string literal
  double bytes = 0;  ///< it has to move; 0: not known
  double flops = 0;  ///< it has to do; 0: none, or not known
  // What tells products of one name apart, [m, k] x [k, n]; 0: no product.
  std::int64_t m = 0, n = 0, k = 0;
};

/// Hears of each piece of work that a thread queues on a device (or, on the CPU, does), before and after.
class WorkListener {
 public:
  virtual ~WorkListener() = default;
  virtual void begin(const Work& work) = 0;
  virtual void end() noexcept = 0;
};

/// The calling thread's listener; null while there is no profile, and then a WorkScope costs a look at it.
WorkListener*& work_listener() noexcept;

/// Brackets work for the profile.
class WorkScope {
 public:
  explicit WorkScope(const Work& work) : listener_(work_listener()) {
    if (listener_ != nullptr) listener_->begin(work);
  }
  ~WorkScope() {
    if (listener_ != nullptr) listener_->end();
  }
  WorkScope(const WorkScope&) = delete;
  WorkScope& operator=(const WorkScope&) = delete;

 private:
  WorkListener* listener_;
};

}  // namespace wick
