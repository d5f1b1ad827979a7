#pragma once

#include <cstddef>

#include "wick/ops.h"

namespace wick {

/// What a kernel answers: null when it ran, else why it does not take these arguments (a string literal).
using Declined = const char*;

/// The kernels of one op for one direction, by device. A null entry means that there is none; a backend built into the
/// program fills its own (`rms_norm_forward.on(DeviceType::cuda) = ...`), so op code has no #ifdef.
template <class Signature>
struct Kernels {
  Signature* by_device[kDeviceTypes] = {};

  Signature*& on(DeviceType type) { return by_device[static_cast<std::size_t>(type)]; }
};

}  // namespace wick
