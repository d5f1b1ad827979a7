#pragma once

#include <string>
#include <vector>

#include "core/work.h"
#include "wick/profile.h"

namespace wick {

/// Keeps what it hears, with times.
class WorkRecorder : public WorkListener {
 public:
  /// The records so far, in the order of their starts, times since the first one's. Waits for the device.
  virtual std::vector<KernelRecord> take() = 0;
};

/// "gemm 8192x2688x904", which is m x n x k; the name alone where there is no product.
std::string work_name(const Work& work);

}  // namespace wick
