#pragma once

#include <memory>

#include "profile/recorder.h"

namespace wick::cuda {

/// Times each piece of work on the device's stream by an event before and one after it.
std::unique_ptr<WorkRecorder> make_event_recorder(Device device);

}  // namespace wick::cuda
