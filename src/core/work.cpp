#include "core/work.h"

namespace wick {

WorkListener*& work_listener() noexcept {
  thread_local WorkListener* listener = nullptr;
  return listener;
}

}  // namespace wick
