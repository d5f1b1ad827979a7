#pragma once

#include <functional>
#include <memory>

#include "backend/backend.h"

namespace wick::cuda {

/// Records what `work` queues on the device's stream as a CUDA graph, without running it. Memory that it allocates
/// stays with the recording.
std::unique_ptr<Recording> record(Device device, const std::function<void()>& work);

}  // namespace wick::cuda
