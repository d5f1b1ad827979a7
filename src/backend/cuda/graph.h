#pragma once

#include <functional>
#include <memory>

#include "backend/backend.h"

namespace wick::cuda {

std::shared_ptr<RecordingMemory> recording_memory(Device device);
/// Records what `work` queues on the device's stream as a CUDA graph, without running it. What it allocates comes from
/// `memory`, one of recording_memory().
std::unique_ptr<Recording> record(Device device, const std::function<void()>& work,
                                  std::shared_ptr<RecordingMemory> memory);

}  // namespace wick::cuda
